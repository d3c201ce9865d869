"""What every table is made of: the parent of all, and how Python's types and the states of things are stored."""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import ARRAY, DateTime, Enum, MetaData, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

from vlyard.files import ArtefactKind
from vlyard.jobs.kinds import Device
from vlyard.jobs.state import State
from vlyard.teams import Role


class Outcome(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"  # nobody renewed its lease
    RELEASED = "released"  # its worker was told to stop, and gave it back: it counts as no attempt


class DeliveryState(StrEnum):
    PENDING = "pending"  # to be sent at `next_at`
    DELIVERED = "delivered"  # the receiver answered with 2xx
    EXHAUSTED = "exhausted"  # every try failed, or the webhook was disabled


class ArtefactState(StrEnum):
    PENDING = "pending"  # its upload has not been completed
    READY = "ready"  # its bytes are in the store, and are what they were said to be


def _by_value(kind: type[StrEnum]) -> Enum:
    """A text column that holds the enum's values, checked by the database."""
    return Enum(
        kind,
        native_enum=False,
        length=16,
        create_constraint=True,
        name=kind.__name__.lower(),
        values_callable=lambda members: [member.value for member in members],
    )


class Table(DeclarativeBase):
    """The parent of every table: naming of constraints, and the types of Python's types."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[str]: ARRAY(Text),
        **{
            kind: _by_value(kind) for kind in (State, Role, Outcome, Device, ArtefactState, ArtefactKind, DeliveryState)
        },
    }
