"""Out-of-fold predictions of each trial that was the best when it ended.

They lie in the database, half a megabyte each: whoever reads a study reads them too, from any machine.
"""

from __future__ import annotations

import io

import numpy as np
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from hms_tune.database.connect import Storage
from hms_tune.database.tables import now, out_of_fold
from hms_tune.training.events import OutOfFold


def keep_out_of_fold(storage: Storage, study_id: int, number: int, predictions: OutOfFold) -> None:
    """Keep a trial's out-of-fold predictions, compressed."""
    stream = io.BytesIO()
    arrays = {name: getattr(predictions, name) for name in OutOfFold.__dataclass_fields__}
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    content = stream.getvalue()
    statement = insert(out_of_fold).values(study_id=study_id, number=number, content=content)
    with storage.engine.begin() as connection:
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["study_id", "number"], set_={"content": content, "written_at": now()}
            )
        )


def kept_out_of_fold(storage: Storage, study_id: int, number: int) -> OutOfFold | None:
    """The predictions of a trial that was the best when it ended; None of any other."""
    with storage.engine.connect() as connection:
        content = connection.execute(
            select(out_of_fold.c.content).where(
                out_of_fold.c.study_id == study_id, out_of_fold.c.number == number
            )
        ).scalar_one_or_none()
    if content is None:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return OutOfFold(**{name: arrays[name] for name in OutOfFold.__dataclass_fields__})
