"""Predictions for pictures as users have them: files of any size, format and orientation."""
