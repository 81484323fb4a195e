"""One file a data source; its name is what data.source says."""
