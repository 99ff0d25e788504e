"""How benchmarks write down what they measured: a table as Markdown, all of it as JSON, with machine and versions."""

import json
import os
import re
import statistics
from pathlib import Path

import run_folder

RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", Path(__file__).parent / "results"))


def process_peak() -> int:
    """Most bytes of memory that this process ever held, pages of mapped files with it. Linux or macOS."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's getrusage would include what the parent held when it started this process
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    import resource  # which Windows lacks

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def shown(measured: dict[str, float], form: str) -> str:
    """A spread as text: median (low–high)."""
    return f"{measured['median']:{form}} ({measured['low']:{form}}–{measured['high']:{form}})"


def table(head: list[str], lines: list[list[str]]) -> str:
    """Markdown, all columns but the first aligned to the right."""
    rules = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rules, *lines))


def write(name: str, results: dict, text: str, note: str = "", show: bool = True) -> None:
    """Writes name.json and name.md into RESULTS and shows the latter. note: what the figures depend on besides."""
    facts = run_folder.environment()
    machine, versions = facts["machine"], facts["versions"]
    (RESULTS / f"{name}.json").write_text(json.dumps({**facts, **results}, indent=2) + "\n", encoding="utf-8")
    where = f"{machine['gpu'] or machine['processor']}, torch {versions['torch']}, threads: {machine['threads']}"
    text = f"`{facts['command']}`, {where}{note and ', ' + note}\n\n{text}\n"
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    if show:
        print(text)
