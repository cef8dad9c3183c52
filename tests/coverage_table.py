#!/usr/bin/env python3
"""Line coverage per room from gcovr's JSON summary: tests/coverage_table.py coverage.json"""
import json
import sys

ROOMS = ["src/base", "src/mem", "algorithms", "transports", "src", "perf"]


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        files = json.load(file)["files"]
    rooms = {room: [0, 0] for room in ROOMS}
    for row in files:
        room = next((r for r in ROOMS if row["filename"].startswith(r + "/")), None)
        if room:
            rooms[room][0] += row["line_covered"]
            rooms[room][1] += row["line_total"]
    rooms["together"] = [sum(r[0] for r in rooms.values()), sum(r[1] for r in rooms.values())]
    print(f"{'room':<14}{'lines':>8}{'covered':>9}{'share':>8}")
    for room, (covered, total) in rooms.items():
        if total:
            print(f"{room:<14}{total:>8}{covered:>9}{100 * covered / total:>7.1f}%")
    low = sorted((r["line_percent"], r["filename"]) for r in files
                 if r["line_total"] >= 20 and any(r["filename"].startswith(x + "/") for x in ROOMS))
    print("least covered: " + ", ".join(f"{name} {share}%" for share, name in low[:8]))
    return 0 if rooms["together"][1] else 1


if __name__ == "__main__":
    sys.exit(main())
