"""Record the golden frames: python tests/data/record.py (once; a change of them is a change of what networks see)."""

from pathlib import Path

import cv2
import numpy as np
from ale_py import ALEInterface, LoggerMode, roms

SCREENS = 1 + 4 * 5

ALEInterface.setLoggerMode(LoggerMode.Error)
recorded = {}
for game, rom, wait in (("Breakout", "breakout", 150), ("SpaceInvaders", "space_invaders", 400)):
    ale = ALEInterface()
    ale.setInt("random_seed", 1)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(roms.get_rom_path(rom))
    actions = ale.getMinimalActionSet()
    for frame in range(wait):
        ale.act(actions[frame // 5 % len(actions)])
    screens = []
    for frame in range(SCREENS):
        ale.act(actions[frame // 5 % len(actions)])
        screens.append(ale.getScreenGrayscale())
    pictures = [
        cv2.resize(np.maximum(screens[i - 1], screens[i]), (84, 84), interpolation=cv2.INTER_AREA)
        for i in range(4, SCREENS, 4)
    ]
    recorded |= {f"{game}_screens": np.array(screens), f"{game}_pictures": np.array(pictures)}
np.savez_compressed(Path(__file__).parent / "frames.npz", **recorded)
