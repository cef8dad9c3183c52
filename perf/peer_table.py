#!/usr/bin/env python3
"""The README's tables from CSV files of `coll_perf --peer LIBRARY --csv FILE`: a row per size, a column per
collective and number of ranks; in each cell Tutti's time out of place, then the ratio Tutti / peer out of
place and in place (medians of interleaved blocks; - where the peer has no such call). Below it the
largest ratio with its quartiles. With --collectives: a row per collective, a column per file; in each cell
the median of the ratios of all sizes, out of place and in place, and the largest with its size."""
import argparse
import csv
import statistics
import sys


def size_text(size):
    for suffix, unit in (("M", 1 << 20), ("K", 1 << 10)):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


def rows_of(name):
    try:
        with open(name, newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        sys.exit(f"peer_table.py: {name}: {error.strerror}")
    if not rows or "ratio_high" not in rows[0]:
        sys.exit(f"peer_table.py: {name} is no CSV of coll_perf with rows in it")
    return rows


def print_collectives(files):
    cells, columns, collectives = {}, [], []
    for name in files:
        rows = rows_of(name)
        column = f"{rows[0]['transport']}, {rows[0]['ranks']} ranks"
        columns.append(column)
        for row in rows:
            if row["collective"] not in collectives:
                collectives.append(row["collective"])
            if row["ratio"]:
                cell = cells.setdefault((row["collective"], column), [])
                cell.append((float(row["ratio"]), size_text(int(row["bytes"]))))
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for collective in collectives:
        texts = []
        for column in columns:
            cell = cells.get((collective, column))
            middle = statistics.median(ratio for ratio, size in cell) if cell else 0
            texts.append(f"{middle:.2f} / {max(cell)[0]:.2f} ({max(cell)[1]})" if cell else "-")
        print(f"| {collective} | " + " | ".join(texts) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=lambda text: text.split(","), metavar="8,4K,64M",
                        help="the rows to print (all)")
    parser.add_argument("--collectives", action="store_true", help="a row per collective, all sizes in one")
    parser.add_argument("files", nargs="+", metavar="FILE")
    options = parser.parse_args()
    if options.collectives:
        return print_collectives(options.files)
    wanted = options.sizes
    cells, columns, sizes, worst = {}, [], set(), None
    for row in (row for name in options.files for row in rows_of(name)):
        column = (row["collective"], int(row["ranks"]))
        size = int(row["bytes"])
        if column not in columns:
            columns.append(column)
        sizes.add(size)
        cells[column, size, int(row["in_place"])] = row
        if row["ratio"] and (worst is None or float(row["ratio"]) > float(worst["ratio"])):
            worst = row
    print("| bytes | " + " | ".join(f"{coll}, {ranks} ranks" for coll, ranks in columns) + " |")
    print("|---:|" + "---:|" * len(columns))
    for size in sorted(sizes):
        if wanted and size_text(size) not in wanted:
            continue
        texts = []
        for column in columns:
            both = [cells.get((column, size, place)) for place in (0, 1)]
            ratios = [f"{float(row['ratio']):.2f}" if row and row["ratio"] else "-" for row in both]
            texts.append(f"{float(both[0]['time_us']):.4g} us, {' / '.join(ratios)}" if both[0] else "")
        print(f"| {size_text(size)} | " + " | ".join(texts) + " |")
    if worst:
        print(f"\nLargest ratio to {worst['peer']}: {float(worst['ratio']):.2f} ({worst['ratio_low']} to "
              f"{worst['ratio_high']}), {worst['collective']} of {size_text(int(worst['bytes']))}, "
              f"{worst['ranks']} ranks{', in place' if worst['in_place'] == '1' else ''}.")


if __name__ == "__main__":
    main()
