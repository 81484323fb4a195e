"""What became of processes that a process has started."""

import psutil


def spawned(pid: int) -> list[int]:
    """Those that multiprocessing started for a process, by age; its own helper of spawned processes is none."""
    found = []
    for child in psutil.Process(pid).children():
        try:
            if any("spawn_main" in part for part in child.cmdline()):
                found.append(child.pid)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # it has just ended
    return sorted(found)


def has_ended(pid: int) -> bool:
    """Whether a process has; in a container nobody may ask how it ended, and then something of it stays."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
