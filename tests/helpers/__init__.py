"""Networks, callbacks, files and pages that several test files share; conftest.py has the fixtures."""
