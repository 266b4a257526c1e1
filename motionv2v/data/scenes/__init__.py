"""Scenes drawn by programs, whose motion is known exactly."""
