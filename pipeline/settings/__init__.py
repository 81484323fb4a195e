"""params.yaml as typed, checked values: one file a section, then the whole, presets, and the pages made from it.

Every room above may enter. It knows system alone; methods and sources it finds by name.
"""
