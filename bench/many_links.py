"""A million links against 1,000: CPU per click, memory a link in each worker, seconds until an edge is ready.

    python -m bench.many_links [--seconds 5] [--rounds 5]

The million is clicked all over: 20,000 links in turn, so that no cache holds them.
"""

from __future__ import annotations

from contextlib import ExitStack

from bench.kit import growth
from bench.kit.cpu import resident_bytes
from bench.kit.database import database, work_folder
from bench.kit.growth import World
from bench.kit.machine import need_tools
from bench.kit.plan import Plan, command
from bench.kit.report import Report
from bench.kit.rounds import spread
from bench.kit.servers import edge
from bench.kit.traffic import plain_clicks

FEW, MANY, SMOKE_MANY = 1_000, 1_000_000, 5_000
CLICKED = 20_000


def measure(plan: Plan) -> Report:
    """CPU per click, memory and start-up with a million links against 1,000."""
    need_tools("wrk", "taskset")
    many = SMOKE_MANY if plan.smoke else MANY
    worlds, memory = [], []
    with work_folder() as folder, database(folder) as stored, ExitStack() as edges:
        for links in (FEW, many):
            own = stored.another(f"links_{links}", links=links)
            server = edges.enter_context(edge(folder, own.dsn, name=f"tracker {links}"))
            memory.append(resident_bytes(server.workers[0]))
            clicked = range(1, links + 1, max(1, links // CLICKED))
            worlds.append(World(f"{links:,} links", server, own, plain_clicks(links=clicked)))
        notes = growth.run("links", worlds, plan)
    few, large = worlds
    kilobytes = (memory[1] - memory[0]) / (many - FEW) / 1024
    notes.append(f"Ready after {few.edge.start_seconds:.1f} s and {large.edge.start_seconds:.1f} s, with "
                 f"{memory[0] / 2**20:.0f} MiB and {memory[1] / 2**20:.0f} MiB: {kilobytes:.2f} KB a link.")
    report = growth.report("many_links", "links in the catalog", worlds, plan, notes)
    note = "" if many == MANY else f"{many:,} links"
    report.findings = growth.findings(few, large, "links", note) | {
        "links: KB each": spread([kilobytes], note=note), "links: start-up": spread([large.edge.start_seconds], note=note),
    }
    return report


main = command(measure)

if __name__ == "__main__":
    main()
