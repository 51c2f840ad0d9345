"""A PACS is down for ten minutes: what another one notices, and how the first gets its results after its return.

python -m tests.benchmarks.outage [--outage 600] [--before 60] [--every 2] [--postgresql]
"""

import argparse
import contextlib
import statistics
import tempfile
from pathlib import Path

from tests.databases import new_postgresql_database
from tests.outage import outage


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outage", type=float, default=600)
    parser.add_argument("--before", type=float, default=60)
    parser.add_argument("--every", type=float, default=2)
    parser.add_argument("--first-retry", type=float, default=0.5)
    parser.add_argument("--longest", type=float, default=10, help="longest wait and longest time between probes")
    parser.add_argument("--postgresql", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        sqlite = f"sqlite:///{Path(name) / 'dicomnode.sqlite'}"
        story = outage(
            Path(name),
            stack.enter_context(new_postgresql_database()) if arguments.postgresql else sqlite,
            before_s=arguments.before,
            outage_s=arguments.outage,
            every_s=arguments.every,
            first_retry_s=arguments.first_retry,
            longest_s=arguments.longest,
        )
    for what, values in (("before", story.before), ("during", story.during)):
        late = sorted(values)[int(0.95 * (len(values) - 1))]
        print(
            f"healthy PACS {what}: {len(values)} reports, median {statistics.median(values):.2f} s, 95 % {late:.2f} s"
        )
    print(f"dead PACS: {story.reports} reports, {story.arrived_once} arrived once, {story.arrived_more} more than once")
    print(f"dead PACS: {story.attempts} attempts for objects and {story.probes} failures in a row while it was down")
    print(f"dead PACS: the last report arrived {story.last_after_s:.1f} s after its return")


if __name__ == "__main__":
    main()
