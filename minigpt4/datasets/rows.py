"""What a dataset needs to read and check the rows of its annotation files; evaluation files are read the same way."""

from minigpt4.common.json_records import JsonRecords
from minigpt4.common.row_checks import NUMBER, is_number, require

__all__ = ["NUMBER", "JsonRecords", "is_number", "require"]
