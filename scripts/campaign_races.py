"""A part of the campaign: runs that choose a folder of one name at once."""

from __future__ import annotations

import random
import re
import shutil

from campaign_folders import torn
from campaign_ground import KILLED, Ground, Part, Run

RACERS = 6  # processes that begin at once


def races(ground: Ground, count: int, seed: int) -> Part:
    """Begin runs of one name at once: each has a folder of its own, and who is refused takes nobody's."""
    part, chance = Part("races"), random.Random(seed)
    refused = {"prune": "flops=0.01", "train-sparse": "flops=0.01", "finetune": "device=99"}
    for i in range(-(-count // RACERS)):
        project = ground.folder / "races" / str(i)
        (project / "run").mkdir(parents=True)
        (project / "run" / "mine.txt").write_text("mine")
        started: list[tuple[str, bool, Run]] = []
        for k in range(RACERS):
            command, wrong = chance.choice(KILLED), k % 3 == 2
            words = ground.words(command, project)
            if wrong:
                key = refused[command].partition("=")[0]
                words = [w for w in words if not w.startswith(f"{key}=")] + [refused[command]]
            started.append((command, wrong, Run(words, ground.folder)))
        said = [(command, wrong, run.end()) for command, wrong, run in started]
        folders = {f.name for f in project.iterdir() if f.is_dir()} - {"run"}
        saved = [re.sub(r"\x1b\[\d*m", "", e.said) for _, wrong, e in said if not wrong]
        named = [set(re.findall(rf"{re.escape(str(project))}/(run[-\d]*)", text)) for text in saved]
        faults = [f"{c} exit {e.status}: {e.said[-200:]}" for c, wrong, e in said if bool(e.status) != wrong]
        faults += [f"{c}: {e.unclean()}" for c, wrong, e in said if wrong and e.unclean()]
        if len(folders) != len(saved):
            faults.append(f"{len(saved)} runs left {len(folders)} folders")
        if sorted(n for names in named for n in names) != sorted(folders):
            faults.append(f"runs name {named}, folders are {sorted(folders)}")
        if (project / "run" / "mine.txt").read_text() != "mine":
            faults.append("the user's folder was written to")
        faults += list(torn(project))
        for _, wrong, _ in said:
            part.count("refused" if wrong else "a folder of its own")
        part.judge(f"round {i}", *faults)
        part.tried += RACERS - 1
        shutil.rmtree(project)
    return part
