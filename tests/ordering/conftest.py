"""Every test of this room runs in both forms of its operations."""

from tests.forms import form as form
