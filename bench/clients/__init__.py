"""The Python side of each peer: brokers written in Python, responders and clients."""
