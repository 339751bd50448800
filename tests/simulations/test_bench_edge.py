"""``bench edge``: what is measured, by whom, and what the committed run says."""

import json
import os
import sys
import sysconfig
from pathlib import Path

import pytest

import fedbias as fb
from simulations.__main__ main
