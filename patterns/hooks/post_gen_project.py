"""Put the chosen patterns into the project around the unpacked folder, then remove the folder."""

import os
import runpy
import shutil
import sys

unpacked = os.getcwd()
sys.dont_write_bytecode = True
failed = runpy.run_path("lift.py")["main"]()
if failed:
    sys.exit(failed)  # cookiecutter removes the folder itself
os.chdir("..")  # a folder that is somebody's current one cannot be removed on Windows
shutil.rmtree(unpacked)
