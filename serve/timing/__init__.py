"""Latency, throughput, cold starts, memory and energy of candidates on this machine.

The command and the stage benchmark enter. It knows model.
"""
