"""Generators and instruments for the tests."""
