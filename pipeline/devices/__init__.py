"""Where numbers are computed, in what precision, and by how many processes.

Data and every room above enter. It knows system and settings.
"""
