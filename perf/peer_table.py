#!/usr/bin/env python3
"""The README's table from CSV files of `coll_perf --peer mpi --csv FILE`: a row per size, a column per
collective and number of ranks; in each cell Tutti's time out of place, then the ratio Tutti / MPI out
of place and in place (medians of interleaved blocks).  usage: peer_table.py FILE..."""
import csv
import sys


def size_text(size):
    for suffix, unit in (("M", 1 << 20), ("K", 1 << 10)):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


def main():
    cells, columns, sizes = {}, [], set()
    for name in sys.argv[1:]:
        with open(name, newline="") as file:
            for row in csv.DictReader(file):
                column = (row["collective"], int(row["ranks"]))
                size = int(row["bytes"])
                if column not in columns:
                    columns.append(column)
                sizes.add(size)
                cells[column, size, int(row["in_place"])] = (float(row["time_us"]), float(row["ratio"]))
    print("| bytes | " + " | ".join(f"{coll}, {ranks} ranks" for coll, ranks in columns) + " |")
    print("|---:|" + "---:|" * len(columns))
    worst = max(ratio for _, ratio in cells.values())
    for size in sorted(sizes):
        row = []
        for column in columns:
            out, inside = cells.get((column, size, 0)), cells.get((column, size, 1))
            row.append(f"{out[0]:.4g} us, {out[1]:.2f} / {inside[1]:.2f}" if out and inside else "")
        print(f"| {size_text(size)} | " + " | ".join(row) + " |")
    print(f"\nLargest ratio: {worst:.2f}.")


if __name__ == "__main__":
    main()
