"""Pupil's library: data, networks, distillation methods, training, export. Never reads argv, never knows a path."""
