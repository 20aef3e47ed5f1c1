"""The library's students, and the code that builds and checks any student."""
