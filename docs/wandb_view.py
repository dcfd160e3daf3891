"""Make a saved view of a study in Weights & Biases, and print its link.

    pip install wandb-workspaces
    python docs/wandb_view.py effnet TEAM [--project hms-tune]

The view has the panels that docs/observing-terminal.md names, filled with what the study searches. Whoever is
logged in to W&B makes it; everybody in the project sees it.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from hms_tune.config.ranges import Choices, Group, Parameter, parameters
from hms_tune.config.study_file import StudyFile, load_study_file


def view(study_file: StudyFile, entity: str, project: str) -> Any:
    """The view of a study: its runs, without those of paused trials, and five panels."""
    # A conditional parameter is missing from most runs, which would leave the parallel coordinates.
    searched = [_key(each) for each in parameters(study_file.space) if not each.condition]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name)) for name in searched]
    kl = wr.SummaryMetric("kl")
    by_backbone = {"groupby": "model.backbone"} if "model.backbone" in searched else {}
    panels = [
        wr.ParallelCoordinatesPlot(columns=[*columns, wr.ParallelCoordinatesPlotColumn(metric=kl)]),
        wr.ParameterImportancePlot(with_respect_to="kl"),
        wr.LinePlot(title="val/kl", x="epoch", y=["val/kl"], **by_backbone),
        wr.LinePlot(title="train/loss", x="epoch", y=["train/loss"], **by_backbone),
        wr.ScatterPlot(x=wr.SummaryMetric("gpu_hours"), y=kl),
    ]
    # As text: ws.Summary("state") would be written as State, W&B's own name of whether a run goes on.
    runs = ws.RunsetSettings(
        filters=f"Group = '{study_file.study}' and SummaryMetric('state') != 'paused'",
        order=[ws.Ordering(ws.Summary("kl"), ascending=True)],
        pinned_columns=["summary:kl", "summary:state", *(f"config:{name}" for name in searched[:4])],
    )
    section = ws.Section(name=study_file.study, panels=panels, is_open=True)
    return ws.Workspace(
        entity=entity, project=project, name=study_file.study, sections=[section], runset_settings=runs
    )


def _key(parameter: Parameter) -> str:
    """Where a run's config has it: a branch of choices by its name."""
    branches = parameter.node.branches if isinstance(parameter.node, Choices) else ()
    named = any(isinstance(branch.node, Group) and "name" in branch.node.entries for branch in branches)
    return f"{parameter.name}.name" if named else parameter.name


def main() -> None:
    """Save the view."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", help="name of a study, or its file")
    parser.add_argument("entity", help="user or team")
    parser.add_argument("--project", default="hms-tune")
    given = parser.parse_args()
    sys.stdout.write(f"{view(load_study_file(given.study), given.entity, given.project).save().url}\n")


if __name__ == "__main__":
    main()
