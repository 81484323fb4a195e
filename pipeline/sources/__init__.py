"""One file a data source; its name is what data.source says.

Preparation opens them by name. They know preparation, settings and system.
"""
