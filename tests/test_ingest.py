"""`add`, whole path: what comes in is proved, found again, continued, extended; two at once do no harm."""

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio

import collection
from tilevault.archive.blobs import LocalBlobs
from tilevault.archive.store import Archive
from tilevault.codecs.errors import ImageNotFound, InvalidRequest
from tilevault.workflows import ingest
from tilevault.workflows.ingest import add
