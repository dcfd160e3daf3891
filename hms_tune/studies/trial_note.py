"""One trial in Markdown, for its page in the dashboard."""

from __future__ import annotations

from hms_tune.config.trial import DataConfig
from hms_tune.machine.byte_count import readable
from hms_tune.studies.text import best_epoch_text, estimate_text, score_text
from hms_tune.studies.trial_record import Others, TrialRecord
from hms_tune.trial_state import AttemptState


def why_it_ended(trial: TrialRecord, others: Others | None) -> str:
    """In a sentence, what became of a trial."""
    if trial.state is AttemptState.COMPLETE and trial.value is not None:
        return f"Complete: KL {trial.value:.4f}."
    if trial.state in (AttemptState.PRUNED, AttemptState.PAUSED):
        return _pruned(trial, others)
    reason = trial.reason or "no reason was given"
    later = [each.attempt for each in trial.attempts if each.attempt > trial.attempt]
    onward = f"attempt {later[0]}" if later else "a later attempt"
    match trial.state:
        case AttemptState.REQUEUED | AttemptState.LOST:
            return f"{reason[:1].upper()}{reason[1:]}; the trial goes on in {onward}."
        case AttemptState.RUNNING:
            return "Running."
        case AttemptState.WAITING:
            return "Waits for a slot."
        case ended:
            return f"{ended.capitalize()}: {reason}."


def _pruned(trial: TrialRecord, others: Others | None) -> str:
    place = "at once"
    if trial.folds and trial.folds[-1].epochs:
        last = trial.folds[-1]
        place = f"in fold {last.fold + 1} after epoch {last.epochs[-1].epoch + 1} of {last.epochs_planned}"
    text = f"{trial.state.capitalize()} {place}"
    if not trial.reported:
        return f"{text}."
    estimate = _estimate(trial, others)
    if others is None or others.median is None:
        return f"{text}: {estimate}."
    earlier = f"{others.number} earlier ones had reported {others.median:.4f} there in the median"
    return f"{text}: {estimate}; {earlier}."


def _estimate(trial: TrialRecord, others: Others | None) -> str:
    """What a trial that was not trained to its end had come to, beside the complete ones."""
    estimate = trial.reported[max(trial.reported)]
    config = (trial.config or {}).get("data", {})
    if others is None or not trial.folds or not config:
        return estimate_text(estimate)
    folds = DataConfig.model_validate(config).trained_folds
    return others.standing.text(estimate, trial.folds[-1].fold + 1, folds)


def trial_note(study: str, trial: TrialRecord, others: Others | None) -> str:
    """The note of a study's trial: why it ended, fold by fold, where it ran.

    Short on purpose: the dashboard sends the notes of all trials with every study page.
    """
    parts = [f"**{why_it_ended(trial, others)}**"]
    if trial.folds:
        rows = ["| fold &nbsp;| KL &nbsp;| best epoch &nbsp;| train loss |", "|:---|:---|:---|:---|"]
        for fold in trial.folds:
            loss = score_text(fold.epochs[-1].train_loss if fold.epochs else None)
            best = f"{score_text(fold.best_kl)} &nbsp;| {best_epoch_text(fold)}"
            rows.append(f"| {fold.fold + 1} | {best} | {loss} |")
        parts.append("\n".join(rows))
    parts.append(" · ".join(_where(trial)))
    if trial.run_url:
        parts.append(f"[Weights & Biases run]({trial.run_url})")
    if trial.state is AttemptState.FAILED and trial.traceback:
        parts.append(f"`hms-tune study show {study} --trial {trial.attempt}` prints the traceback")
    return "\n\n".join(part for part in parts if part)


def _where(trial: TrialRecord) -> list[str]:
    facts = []
    attempt = trial.last_attempt
    if attempt is not None:
        facts.append(f"{attempt.host}, slot {attempt.slot}")
        facts.append(f"{trial.seconds:,.0f} s")
    if len(trial.attempts) > 1:
        facts.append("attempts " + ", ".join(str(each.attempt) for each in trial.attempts))
    if trial.peak_memory:
        facts.append(f"peak memory {readable(trial.peak_memory)}")
    return facts
