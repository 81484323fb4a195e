"""params.yaml as typed, checked values: one file a section, then the whole, presets, and the pages made from it."""
