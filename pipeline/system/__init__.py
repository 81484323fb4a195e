"""What any program needs: errors, files that are written whole or not at all, interruption, names of plug-ins."""
