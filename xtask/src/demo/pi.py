"""Estimates pi with random points, on every core that it can get, for 12 s."""
import multiprocessing
import os
import random
import time

SECONDS = 12


def throw(until):
    inside = total = 0
    point = random.Random(os.urandom(16)).random
    while time.monotonic() < until:
        for _ in range(10_000):
            x, y = point(), point()
            inside += x * x + y * y < 1.0
        total += 10_000
    return inside, total


if __name__ == "__main__":
    until = time.monotonic() + SECONDS
    workers = max(2, min(8, os.cpu_count() or 2))
    with multiprocessing.Pool(workers) as pool:
        counts = pool.map(throw, [until] * workers, chunksize=1)
    inside, total = map(sum, zip(*counts))
    line = f"pi is about {4 * inside / total:.5f} ({total:,} points, {workers} processes)"
    with open("result.txt", "w") as file:
        print(line, file=file)
    print(line)
