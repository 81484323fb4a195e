"""From images as people keep them to a prepared split: reading, decoding, auditing, dividing.

The stage prepare enters, preflight for the fingerprint, and the sources. It knows data, settings and system.
"""
