"""The one data set of a study, and the versions of PyTorch that its workers ran."""

from __future__ import annotations

from dataclasses import asdict, fields

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from hms_tune.data.identity import DataIdentity
from hms_tune.database.tables import data_sets, studies, workers
from hms_tune.errors import DataChangedError

_COLUMNS = [data_sets.c[field.name] for field in fields(DataIdentity)]


def data_of_study(connection: Connection, study_id: int) -> DataIdentity | None:
    """The data set that a study keeps to; None: no worker has told."""
    row = connection.execute(select(*_COLUMNS).where(data_sets.c.study_id == study_id)).one_or_none()
    return None if row is None else DataIdentity(**row._mapping)


def agree_on_data(connection: Connection, study_id: int, study: str, data: DataIdentity) -> None:
    """Keep a study to a data set, which is that of the first who asks.

    The statement that writes it waits for whoever writes it at the same time, so there is one first.

    Raises
    ------
    DataChangedError
        If the study keeps to another. The caller's transaction is to end without effect.
    """
    row = insert(data_sets).values(study_id=study_id, **asdict(data))
    known = {column.name: func.coalesce(column, row.excluded[column.name]) for column in _COLUMNS}
    kept = connection.execute(
        row.on_conflict_do_update(index_elements=[data_sets.c.study_id], set_=known).returning(*_COLUMNS)
    ).one()
    if told := data.differences(DataIdentity(**kept._mapping)):
        raise DataChangedError(
            f"this worker's data are not the study's: {', '.join(told)}",
            where=f"study {study}",
            hint="Give --data the folder that the study's trials ran on, or search this one in a new study, "
            f"which learns from this one by search: {{parent: {study}}}",
        )


def id_of_joined(connection: Connection, name: str) -> int | None:
    """Optuna's id of a study that workers have joined; None: there is none of that name."""
    return connection.execute(select(studies.c.study_id).where(studies.c.name == name)).scalar_one_or_none()


def torch_versions(connection: Connection, study_id: int) -> list[str]:
    """The versions of PyTorch of all workers that ever joined a study, each once."""
    statement = select(workers.c.torch).where(workers.c.study_id == study_id, workers.c.torch.is_not(None))
    return sorted(set(connection.execute(statement).scalars()))
