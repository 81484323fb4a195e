"""Programs that serve an exported file with servers of others, each run in an environment of its own by server.py."""
