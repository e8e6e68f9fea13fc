"""Policies for any task."""
