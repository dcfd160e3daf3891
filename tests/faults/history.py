"""What happened in a search, written down by the database itself, in the transactions in which it happened.

Triggers on the product's and Optuna's tables add a row for every claim, renewal, report and end. No worker
takes part, so that nothing is missing when one is killed, and nothing is there that was rolled back.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, text

SETUP = """
CREATE SCHEMA faults;
CREATE TABLE faults.history (
    seq bigserial PRIMARY KEY,
    at double precision NOT NULL DEFAULT extract(epoch FROM clock_timestamp()),
    kind text NOT NULL, lease bigint, trial bigint, attempt integer, step integer,
    value double precision, detail text, transaction bigint NOT NULL DEFAULT txid_current()
);

CREATE FUNCTION faults.lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO faults.history (kind, lease, trial, step)
        VALUES (CASE WHEN NEW.helps THEN 'help' ELSE 'claim' END, NEW.lease_id, NEW.trial_id, NEW.fold);
        RETURN NULL;
    END IF;
    IF NEW.optuna_trial_id IS DISTINCT FROM OLD.optuna_trial_id THEN
        INSERT INTO faults.history (kind, lease, trial, attempt)
        VALUES ('bind', NEW.lease_id, NEW.trial_id, NEW.optuna_trial_id);
    END IF;
    IF NEW.expires_at IS DISTINCT FROM OLD.expires_at THEN
        INSERT INTO faults.history (kind, lease, trial) VALUES ('renew', NEW.lease_id, NEW.trial_id);
    END IF;
    IF NEW.ended_at IS DISTINCT FROM OLD.ended_at THEN
        INSERT INTO faults.history (kind, lease, trial, attempt, detail)
        VALUES ('end', NEW.lease_id, NEW.trial_id, NEW.optuna_trial_id, NEW.state);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER history AFTER INSERT OR UPDATE ON hms_tune.attempts
    FOR EACH ROW EXECUTE FUNCTION faults.lease();

CREATE FUNCTION faults.change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state IS DISTINCT FROM OLD.state THEN
        INSERT INTO faults.history (kind, trial, detail)
        VALUES (TG_ARGV[0] || ' changed', NEW.trial_id, OLD.state || ' ' || NEW.state);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER change AFTER UPDATE ON hms_tune.attempts
    FOR EACH ROW EXECUTE FUNCTION faults.change('attempt');
CREATE TRIGGER change AFTER UPDATE ON hms_tune.trials
    FOR EACH ROW EXECUTE FUNCTION faults.change('trial');

CREATE FUNCTION faults.trial() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO faults.history (kind, attempt, step) VALUES ('made', NEW.trial_id, NEW.number);
    ELSIF NEW.state IS DISTINCT FROM OLD.state THEN
        INSERT INTO faults.history (kind, attempt, detail) VALUES ('state', NEW.trial_id, NEW.state::text);
    ELSIF NEW.number IS DISTINCT FROM OLD.number THEN
        INSERT INTO faults.history (kind, attempt, step) VALUES ('made', NEW.trial_id, NEW.number);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER history AFTER INSERT OR UPDATE ON trials FOR EACH ROW EXECUTE FUNCTION faults.trial();

CREATE FUNCTION faults.report() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO faults.history (kind, attempt, step, value)
    VALUES ('report', NEW.trial_id, NEW.step, NEW.intermediate_value);
    RETURN NULL;
END $$;
CREATE TRIGGER history AFTER INSERT OR UPDATE ON trial_intermediate_values
    FOR EACH ROW EXECUTE FUNCTION faults.report();

CREATE FUNCTION faults.value() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO faults.history (kind, attempt, value) VALUES ('value', NEW.trial_id, NEW.value);
    RETURN NULL;
END $$;
CREATE TRIGGER history AFTER INSERT OR UPDATE ON trial_values
    FOR EACH ROW EXECUTE FUNCTION faults.value();
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that happened, in the order of ``seq``; ``at`` is in seconds since 1970.

    ``kind``: claim, help (a lease on one fold, ``step``), bind (a lease gets its Optuna trial), renew, end
    (``detail``: the attempt's state); trial changed, attempt changed (``detail``: the state before and
    after); made (``step``: the attempt's number), state (``detail``: Optuna's new state), report, value; told
    (an observer heard of an attempt, written by the worker, ``seq`` 0). ``attempt`` is Optuna's id, ``trial``
    ours. Within a ``transaction`` the order has no meaning.
    """

    kind: str
    seq: int = 0
    at: float = 0.0
    lease: int | None = None
    trial: int | None = None
    attempt: int | None = None
    step: int | None = None
    value: float | None = None
    detail: str | None = None
    transaction: int | None = None


def begin(engine: Engine) -> None:
    """Let the database write its history from now on."""
    with engine.begin() as connection:
        connection.exec_driver_sql(SETUP)


def read(engine: Engine) -> list[Fact]:
    """All that happened so far, in order."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM faults.history ORDER BY seq")).mappings()
        return [Fact(**row) for row in rows]
