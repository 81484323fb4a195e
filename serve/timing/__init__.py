"""Latency, throughput, cold starts, memory and energy of candidates on this machine."""
