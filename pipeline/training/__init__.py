"""The one training loop: schedule, averages, mixtures, progress, and a state from which a stopped run goes on."""
