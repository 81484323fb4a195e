"""The load generator: arrivals as users make them, and what they say of a server.

It talks to any server of the protocol and knows none of http.
"""
