"""A study may end when further trials promise less than the noise."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Keep how many draws in a row may promise so little."""
    op.execute("ALTER TABLE hms_tune.studies ADD COLUMN budget_patience integer")
