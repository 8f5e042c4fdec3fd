"""Token files on disk, the order of training, and the batches that both make."""

from llamita.data.dataset import Dataset, note_on_documents, note_on_vocabulary, open_dataset, prepare_data
from llamita.data.manifest import Manifest, Part
from llamita.data.order import BatchOrder, permute
from llamita.data.prepare import Prepared, prepare
from llamita.data.reopen import reopen_dataset
from llamita.data.token_file import TokenFile
from llamita.data.windows import Batch, DocumentWindows, StreamWindows, Windows, random_batch
from llamita.targets import IGNORED

__all__ = [
    "IGNORED",
    "Batch",
    "BatchOrder",
    "Dataset",
    "DocumentWindows",
    "Manifest",
    "Part",
    "Prepared",
    "StreamWindows",
    "TokenFile",
    "Windows",
    "note_on_documents",
    "note_on_vocabulary",
    "open_dataset",
    "permute",
    "prepare",
    "prepare_data",
    "random_batch",
    "reopen_dataset",
]
