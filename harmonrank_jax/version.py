"""The version of this library, read by its build and by what it writes."""

VERSION = "0.1.0"
