"""Students of this library, and how any student is built and checked."""
