"""What Alembic runs to apply revisions, on the connection that :mod:`hms_tune.database.schema` gives it."""

from alembic import context

context.configure(**context.config.attributes["options"])
with context.begin_transaction():
    context.run_migrations()
