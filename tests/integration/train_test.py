#!/usr/bin/env python3
"""kandinsky-train as a process: every trainer runs, goes on after kill -9 with the same numbers, and shares a batch
between processes.

  train_test.py --bin BIN_DIR --model PRESET_DIR
"""

import argparse
import csv
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
import urllib.request

sys.path.insert(0, os.path.dirname(__file__))
from stack import free_port, wait_until

ARGS = None
SIZE = ["--height", "32", "--width", "32"]
QUICK = ["--threads", "1", "--log_every", "1", "--sample_every", "0", "--warmup_steps", "2", "--noprogress"]


def train(command, out, *options, env=None, check=True, preset=None):
    """Runs one trainer to its end and returns the finished process."""
    preset = str(preset or ARGS.model)
    argv = [f"{ARGS.bin}/kandinsky-train", command, "--preset", preset, "--out", str(out), *QUICK, *options]
    done = subprocess.run(argv, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=240)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(argv)}\nended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def start(command, out, *options, env=None):
    argv = [f"{ARGS.bin}/kandinsky-train", command, "--preset", ARGS.model, "--out", str(out), *QUICK, *options]
    return subprocess.Popen(argv, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def log(out, task):
    """The lines of log.csv as dictionaries of strings."""
    path = pathlib.Path(out) / "training" / task / "log.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def weights(path):
    """Header and bytes of a safetensors file."""
    data = pathlib.Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8:8 + length]), data[8 + length:]


def tensors(path, prefix=""):
    """The bytes of each tensor of a safetensors file whose name begins like that."""
    header, data = weights(path)
    return {name: data[slice(*entry["data_offsets"])] for name, entry in header.items()
            if name != "__metadata__" and name.startswith(prefix)}


class TrainTest(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="kandinsky-train-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def test_killed_run_goes_on_with_the_same_numbers(self):
        options = [*SIZE, "--crop", "0", "--steps", "10", "--batch_size", "2", "--checkpoint_seconds", "0"]
        whole, killed = self.directory / "whole", self.directory / "killed"
        train("movq", whole, *options)
        process = start("movq", killed, *options)
        try:
            wait_until(lambda: len(log(killed, "movq")) >= 4, "four steps are logged", timeout=120)
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.communicate()
        self.assertFalse((killed / "movq.safetensors").exists(), "it was killed before its end")
        train("movq", killed, *options)
        self.assertEqual(log(whole, "movq"), log(killed, "movq"))
        self.assertEqual([row["step"] for row in log(whole, "movq")], [str(step) for step in range(1, 11)])
        self.assertEqual(weights(whole / "movq.safetensors"), weights(killed / "movq.safetensors"))

    def test_first_signal_saves_and_ends(self):
        out = self.directory / "out"
        options = [*SIZE, "--crop", "0", "--steps", "1000", "--batch_size", "2"]
        process = start("movq", out, *options)
        try:
            wait_until(lambda: log(out, "movq"), "a step is logged", timeout=120)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        self.assertEqual(process.returncode, 0, output)
        self.assertIn(b"run the same command to go on", output)
        header, _ = weights(out / "training" / "movq" / "state.safetensors")
        self.assertEqual(header["__metadata__"]["step"], log(out, "movq")[-1]["step"])

    def train_in_two_processes(self, command, out, *options):
        port = free_port()
        env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

        def listens():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        processes = [start(command, out, *options, env={**env, "RANK": "0"})]
        try:
            # One that tried before could be given this very port for its own end, and talk to itself.
            wait_until(listens, "process 0 listens", timeout=60)
            processes.append(start(command, out, *options, env={**env, "RANK": "1"}))
            outputs = [process.communicate(timeout=180)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        self.assertEqual([process.returncode for process in processes], [0, 0], outputs)

    def test_two_processes_learn_what_one_does(self):
        one, two = self.directory / "one", self.directory / "two"

        def same(task):
            for want, got in zip(log(one, task), log(two, task), strict=True):
                self.assertEqual(want["step"], got["step"])
                self.assertAlmostEqual(float(want["loss"]), float(got["loss"]), delta=2e-4 * float(want["loss"]))

        options = [*SIZE, "--crop", "0", "--steps", "5", "--batch_size", "4"]
        train("movq", one, *options)
        self.train_in_two_processes("movq", two, *options)
        same("movq")

        # Each process encodes half of the clips, and both get all.
        shutil.copy(one / "movq.safetensors", two)
        options = [*SIZE, "--steps", "2", "--batch_size", "4", "--clips", "5"]
        pool = pathlib.Path("training") / "text-to-image" / "latents.safetensors"
        train("text-to-image", one, *options)
        self.train_in_two_processes("text-to-image", two, *options)
        same("text-to-image")
        self.assertEqual((one / pool).read_bytes(), (two / pool).read_bytes())
        # A pool that only process 0 has on disk serves both.
        (two / "training" / "text-to-image" / "state.safetensors").unlink()
        self.train_in_two_processes("text-to-image", two, *options)
        same("text-to-image")

    def test_every_trainer_runs_and_goes_on(self):
        out = self.directory / "model"
        preset = json.loads((pathlib.Path(ARGS.model) / "model.json").read_text())
        start, pool = self.text_to_image("4", "--interpolation")
        common = [*SIZE, "--batch_size", "2"]
        # The options of each trainer, and the file that it leaves.
        cases = [
            ("movq", [*common, "--crop", "16", "--codebook_size", "16", "--adversarial_weight", "0.1",
                      "--adversarial_start", "0"], preset["weights"]["movq"]["file"]),
            ("text", ["--batch_size", "4", "--from", ARGS.model], preset["weights"]["text_encoder"]["file"]),
            ("text-to-image", pool, "training/text-to-image.safetensors"),
            ("keyframes", pool, preset["weights"]["keyframe_unet"]["file"]),
            ("interpolation", [*pool, "--from", str(start)], preset["weights"]["interpolation_unet"]["file"]),
            ("interpolation", [*pool, "--baseline", "mfi"], "training/mfi.safetensors"),
        ]
        if "video_movq" in preset:
            cases.append(("decoder", common, preset["weights"]["video_movq"]["file"]))
        for command, options, file in cases:
            with self.subTest(command=command, options=options):
                first = train(command, out, *options, "--steps", "3", "--stop_at", "2")
                self.assertIn("2 of 3 steps; run the same command to go on", first.stdout)
                self.assertFalse((out / file).exists())
                train(command, out, *options, "--steps", "3", "--stop_at", "2", "--export_at_stop")
                self.assertTrue((out / file).exists())
                (out / file).unlink()
                second = train(command, out, *options, "--steps", "3")
                self.assertIn("3 of 3 steps, weights written", second.stdout)
                header, data = weights(out / file)
                names = [name for name in header if name != "__metadata__"]
                self.assertTrue(names)
                self.assertTrue(all(header[name]["dtype"] == "F16" for name in names))
                task = "mfi" if "mfi" in options else command
                self.assertEqual([row["step"] for row in log(out, task)], ["1", "2", "3"])
                self.assertTrue((out / "training" / task / "samples" / "000003.png").exists())
        # All that a worker needs is there.
        for source in preset["weights"].values():
            self.assertTrue((out / source["file"]).exists(), source["file"])

    def test_extractors_and_the_losses_that_use_them(self):
        out, tuned = self.directory / "out", self.directory / "tuned"
        options = ["--batch_size", "4", "--frames", "4", "--steps", "3"]
        train("extractor", out, *SIZE, *options, "--stop_at", "1")
        train("extractor", out, *SIZE, *options)
        self.assertEqual([row["step"] for row in log(out, "extractor")], ["1", "2", "3"])
        for name in ("video", "image", "text", "perceptual"):
            self.assertTrue((out / "extractors" / f"{name}.pt").exists(), name)
        train("movq", out, *SIZE, "--crop", "0", "--batch_size", "2", "--steps", "2")
        # A second run that starts where the first one ended: its first error is that of trained weights.
        losses = ["--perceptual_extractor", str(out / "extractors" / "perceptual.pt"), "--gradient_weight", "0.5"]
        train("movq", tuned, *SIZE, "--crop", "0", "--batch_size", "2", "--steps", "2", "--from", str(out), *losses)
        first, second = log(out, "movq")[0], log(tuned, "movq")[0]
        self.assertIn("perceptual", second)
        self.assertNotIn("perceptual", first)
        self.assertGreater(float(second["psnr"]), float(first["psnr"]))

    def test_autoencoder_keeps_the_latents_that_others_were_trained_on(self):
        start = self.directory / "start"
        common = [*SIZE, "--crop", "0", "--batch_size", "4", "--leave_out", "0"]
        train("movq", start, *common, "--steps", "2")
        further = [*common, "--from", str(start), "--unnamed_colors", "0.5", "--steps", "6", "--learning_rate", "1e-2"]

        def drift(name, weight):
            out = self.directory / name
            train("movq", out, *further, "--anchor", str(start), "--anchor_weight", weight)
            return [float(row["anchor"]) for row in log(out, "movq")]

        free, held = drift("free", "0"), drift("held", "1000")
        self.assertLess(free[0], 1e-6)
        self.assertGreater(free[-1], 1e-4)
        self.assertLess(held[-1], free[-1] / 2)

        frozen = self.directory / "frozen"
        train("movq", frozen, *further, "--freeze_encoder")
        before, after, moved = (tensors(directory / "movq.safetensors")
                                for directory in (start, frozen, self.directory / "free"))
        encoder = [name for name in before if name.startswith(("encoder.", "quant_conv."))]
        self.assertTrue(encoder)
        self.assertTrue(all(before[name] == after[name] for name in encoder))
        self.assertTrue(any(before[name] != moved[name] for name in encoder))
        self.assertTrue(any(before[name] != after[name] for name in before))

        done = train("movq", self.directory / "out", *common, "--steps", "2", "--anchor", str(self.directory / "none"),
                     check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(str(self.directory / "none"), done.stderr)

    def test_text_encoder_learns_and_keeps_what_others_were_trained_on(self):
        common = ["--from", ARGS.model, "--batch_size", "32", "--optimizer", "muon", "--learning_rate", "3e-3",
                  "--steps", "16", "--leave_out", "0"]

        def learn(name, weight):
            out = self.directory / name
            train("text", out, *common, "--anchor_weight", weight)
            self.assertEqual({path.name for path in out.glob("*.safetensors")}, {"text_encoder.safetensors"})
            return log(out, "text")

        free, held = learn("free", "0.001"), learn("held", "100")
        for rows in (free, held):
            self.assertLess(float(rows[0]["anchor"]), 1e-6)
            for attribute in ("shape", "color", "background", "motion"):
                self.assertLess(float(rows[-1][attribute]), float(rows[0][attribute]) / 2, attribute)
        self.assertGreater(float(free[-1]["anchor"]), 0)
        self.assertLess(float(held[-1]["anchor"]), float(free[-1]["anchor"]) / 2)

        done = train("text", self.directory / "out", "--steps", "2", "--from", str(self.directory / "none"), check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(str(self.directory / "none"), done.stderr)

    def text_to_image(self, clips, *options):
        """What keyframes (with "--interpolation": interpolation) start from, and the options of its pool."""
        start = self.directory / "start"
        common = [*SIZE, "--batch_size", "2"]
        pool = [*common, "--clips", clips]
        train("movq", start, *common, "--crop", "0", "--steps", "1")
        train("text-to-image", start, *pool, "--steps", "2", *options)
        return start, pool

    def test_spatial_parts_learn_at_the_rate_they_are_given(self):
        start, pool = self.text_to_image("4")

        image = tensors(start / "training" / "text-to-image.safetensors", "unet.")
        for rate, moves in (("0", False), ("0.5", True)):
            with self.subTest(spatial_rate=rate):
                out = self.directory / f"rate{rate}"
                train("keyframes", out, *pool, "--from", str(start), "--steps", "3", "--spatial_rate", rate)
                video = tensors(out / "keyframes.safetensors", "unet.")
                self.assertGreater(len(video), len(image))
                self.assertEqual(any(video[name] != image[name] for name in image), moves)
        done = train("keyframes", self.directory / "out", *pool, "--from", str(start), "--steps", "3",
                     "--spatial_rate", "-1", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--spatial_rate is -1", done.stderr)

    def test_keyframes_learn_from_the_clips_they_are_given(self):
        start, pool = self.text_to_image("12")

        def keyframes(name, motions, *options, **how):
            return train("keyframes", self.directory / name, *pool, "--from", str(start), "--steps", "2",
                         "--motions", motions, *options, **how)

        def losses(name, motions, *options):
            keyframes(name, motions, *options)
            return [row["loss"] for row in log(self.directory / name, "keyframes")]

        slow = "left,right,up,down,still,grow,shrink"
        chosen = losses("slow", slow)
        self.assertNotEqual(chosen, losses("all", ""))  # some captions mention no motion
        self.assertEqual(chosen, losses("again", slow))
        self.assertNotEqual(losses("colors", slow, "--colors", "red,blue,green"), chosen)
        self.assertNotEqual(losses("backgrounds", slow, "--backgrounds", "white,black"), chosen)
        # Where things are is learned only if that is asked for, and from as many frames as that says.
        four = losses("four", slow, "--frames", "4")
        self.assertNotEqual(four, chosen)
        self.assertEqual(losses("sixteen", slow, "--frames", "16"), chosen)
        self.assertNotIn("layout", log(self.directory / "four", "keyframes")[0])
        self.assertNotEqual(losses("layout", slow, "--frames", "4", "--layout_weight", "2"), four)
        first, second = log(self.directory / "layout", "keyframes")
        self.assertGreater(float(first["layout"]), 0)
        self.assertNotEqual(first["layout"], second["layout"])
        header, _ = weights(self.directory / "layout" / "keyframes.safetensors")
        self.assertFalse([name for name in header if "layout" in name])
        # Spacings from 4 to 16 frames are not 16 alone; 16 to 16 are.
        self.assertNotEqual(losses("ladder", slow, "--spacing_least", "4"), chosen)
        self.assertEqual(losses("one", slow, "--spacing_least", "16"), chosen)
        none = "--colors, --backgrounds and --motions leave none of the 12"
        for motions, options, message in (("left,sideways", [], '--motions has "sideways", must be of left, right'),
                                          ("left", ["--colors", "pink"], '--colors has "pink", must be of red, green'),
                                          ("left", ["--frames", "17"], "--frames is 17.000000, must be 0 to the keyframes"),
                                          ("left", ["--layout_weight", "-1"], "--layout_weight is -1.000000, must be 0 to"),
                                          ("left", ["--spacing_least", "17"], "--spacing_least is 17.000000, must be 0 to"),
                                          ("circle", ["--fast_fraction", "0"], none)):
            with self.subTest(motions=motions, options=options):
                done = keyframes(motions, motions, *options, check=False)
                self.assertEqual(done.returncode, 2)
                self.assertIn(message, done.stderr)

    def test_tuning_needs_nothing_but_the_weights(self):
        start, pool = self.text_to_image("4")
        first, given = self.directory / "first", self.directory / "given"
        train("keyframes", first, *pool, "--from", str(start), "--steps", "2")
        given.mkdir()
        for file in (start / "movq.safetensors", start / "text_encoder.safetensors", first / "keyframes.safetensors"):
            shutil.copy(file, given)
        train("keyframes", given, *pool, "--tune", str(given), "--steps", "2")
        train("keyframes", self.directory / "from", *pool, "--from", str(start), "--tune", str(first), "--steps", "2")
        self.assertEqual(log(given, "keyframes"), log(self.directory / "from", "keyframes"))
        self.assertNotEqual(log(given, "keyframes")[0]["loss"], log(first, "keyframes")[0]["loss"])

    def test_model_json_tells_the_variant_of_the_weights(self):
        start, pool = self.text_to_image("4")
        out = self.directory / "out"

        def variant():
            model = json.loads((out / "model.json").read_text())
            return model["variant"], model["keyframe_unet"]["temporal_variant"]

        shipped = json.loads((pathlib.Path(ARGS.model) / "model.json").read_text())["variant"]
        other = next(name for name in ("Conv1dAttn1dLayers", "Conv1dAttn1dBlocks") if name != shipped)
        options = [*pool, "--from", str(start), "--variant", other, "--steps", "2"]
        train("keyframes", out, *options, "--stop_at", "1")
        self.assertEqual(variant(), (shipped, shipped), "no weights of the other variant yet")
        train("keyframes", out, *options)
        self.assertEqual(variant(), (other, other))
        again = train("keyframes", out, *options)
        self.assertIn("2 of 2 steps, weights written", again.stdout)
        # Without --variant, that of model.json is trained on.
        shutil.rmtree(out / "training")
        train("keyframes", out, *pool, "--from", str(start), "--tune", str(out), "--steps", "2")
        self.assertEqual(variant(), (other, other))

    def test_interpolation_may_have_dimensions_of_its_own(self):
        preset, out, start = (self.directory / name for name in ("preset", "out", "start"))
        shutil.copytree(ARGS.model, preset, ignore=shutil.ignore_patterns("*.safetensors"))
        model = json.loads((preset / "model.json").read_text())
        model["interpolation_unet"].update(model_channels=32, init_channels=32)
        (preset / "model.json").write_text(json.dumps(model))
        pool = [*SIZE, "--batch_size", "2", "--clips", "4", "--steps", "2"]
        train("movq", out, *SIZE, "--batch_size", "2", "--crop", "0", "--steps", "1", preset=preset)
        train("text-to-image", out, *pool, preset=preset)
        train("keyframes", out, *pool, preset=preset)
        refused = train("interpolation", out, *pool, preset=preset, check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("text-to-image.safetensors", refused.stderr)
        start.mkdir()
        shutil.copy(out / "movq.safetensors", start)
        train("text-to-image", start, *pool, "--interpolation", preset=preset)
        train("interpolation", out, *pool, "--from", str(start), preset=preset)
        self.assertTrue((out / "interpolation.safetensors").exists())

    def test_interpolation_learns_the_distances_that_the_service_asks_for(self):
        start, pool = self.text_to_image("4", "--interpolation")
        preset = self.directory / "preset"
        shutil.copytree(ARGS.model, preset, ignore=shutil.ignore_patterns("*.safetensors"))
        model = json.loads((preset / "model.json").read_text())

        def losses(name, skip_frames, *options):
            model["interpolation_sampling"]["skip_frames"] = skip_frames
            (preset / "model.json").write_text(json.dumps(model))
            done = train("interpolation", self.directory / name, *pool, "--from", str(start), "--steps", "2", *options,
                         preset=preset, check=False)
            return [row["loss"] for row in log(self.directory / name, "interpolation")], done

        served, _ = losses("served", [3, 3], "--served_skips")
        self.assertEqual(len(served), 2)
        self.assertEqual(served, losses("three", [1, 1], "--skip_least", "3", "--skip_most", "3")[0])
        self.assertNotEqual(served, losses("other", [3, 1], "--served_skips")[0])
        self.assertIn('"served_skips":[3,3]', weights(self.directory / "served" / "training" / "interpolation" /
                                                      "state.safetensors")[0]["__metadata__"]["fingerprint"])
        none, done = losses("none", [3, 0], "--served_skips")
        self.assertEqual((none, done.returncode), ([], 2))
        self.assertIn("skip_frames of model.json must have numbers, all of them 1 or more", done.stderr)

    def test_pool_encoded_on_demand_gives_the_same_losses(self):
        ahead, lazy = self.directory / "ahead", self.directory / "lazy"
        options = [*SIZE, "--batch_size", "2", "--steps", "2", "--clips", "4"]
        for out, flag in ((ahead, "--encode_ahead"), (lazy, "--noencode_ahead")):
            train("movq", out, *SIZE, "--crop", "0", "--batch_size", "2", "--steps", "1")
            train("text-to-image", out, *options, flag)
        self.assertEqual(log(ahead, "text-to-image"), log(lazy, "text-to-image"))
        self.assertTrue((ahead / "training" / "text-to-image" / "latents.safetensors").exists())
        self.assertFalse((lazy / "training" / "text-to-image" / "latents.safetensors").exists())

    def test_runs_share_a_pool(self):
        start, pool = self.text_to_image("4")
        shared, own = self.directory / "pool.safetensors", pathlib.Path("training") / "keyframes" / "latents.safetensors"
        outs = [self.directory / name for name in ("own", "writes", "reads")]
        written = []
        for out, flags in zip(outs, ([], ["--pool", str(shared)], ["--pool", str(shared)]), strict=True):
            train("keyframes", out, *pool, "--from", str(start), "--steps", "2", *flags)
            if flags:
                self.assertFalse((out / own).exists())
                written.append(shared.stat().st_mtime_ns)
        self.assertEqual(log(outs[0], "keyframes"), log(outs[1], "keyframes"))
        self.assertEqual(log(outs[0], "keyframes"), log(outs[2], "keyframes"))
        self.assertEqual((outs[0] / own).read_bytes(), shared.read_bytes())
        self.assertEqual(written[0], written[1], "it is read, not written again")

    def test_captions_are_new_whenever_a_clip_is_drawn(self):
        start, pool = self.text_to_image("1")

        def losses(name, *options):
            out = self.directory / name
            out.mkdir()
            shutil.copy(start / "movq.safetensors", out)
            train("text-to-image", out, *pool, "--steps", "2", *options)
            return [row["loss"] for row in log(out, "text-to-image")]

        new = losses("new")
        self.assertEqual(new, losses("again", "--captions", "0"))
        one = losses("one", "--captions", "1")
        self.assertNotEqual(new, one)
        self.assertNotEqual(one, losses("short", "--captions", "1", "--leave_out", "1"))
        done = train("text-to-image", start, *pool, "--captions", "-1", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--captions is -1", done.stderr)

    def test_metrics_while_training(self):
        out = self.directory / "out"
        address = f"127.0.0.1:{free_port()}"
        process = start("movq", out, *SIZE, "--crop", "0", "--steps", "1000", "--batch_size", "1",
                        "--metrics_listen", address)

        def scrape():
            try:
                text = urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read().decode()
            except OSError:
                return None
            return text if 'kandinsky_training_loss{kind="loss",task="movq"}' in text else None

        try:
            text = wait_until(scrape, "the loss can be scraped", timeout=120)
        finally:
            process.kill()
            process.communicate()
        for name in ("kandinsky_training_steps_total", "kandinsky_training_samples_total",
                     "kandinsky_training_step_seconds_bucket", "kandinsky_training_learning_rate"):
            self.assertIn(name, text)

    def test_dataset_command(self):
        out = self.directory / "clips"
        command = [f"{ARGS.bin}/kandinsky-train", "dataset", "--out", out, "--seed=7", "--split=held-out", "--size", "32"]
        # further options, exit status, what is said
        cases = [
            (["--count", "2"], 0, "2 clips and captions.jsonl are in"),
            (["--count", "2"], 0, "2 clips and captions.jsonl are in"),
            (["--count", "3"], 1, "holds a data set with other options"),
            (["--count", "0"], 2, "--count: 0 is not in 1 to 100000000"),
            (["--count", "2", "--pace", "hasty"], 2, '--pace is "hasty", must be any, slow or fast'),
        ]
        for options, status, want in cases:
            with self.subTest(options=options):
                done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
                self.assertEqual(done.returncode, status, done.stderr)
                self.assertIn(want, done.stdout + done.stderr)
        self.assertEqual(sorted(path.name for path in out.iterdir()),
                         ["captions.jsonl", "clip-00000000.mp4", "clip-00000001.mp4", "dataset.json"])
        self.assertEqual(json.loads((out / "dataset.json").read_text())["split"], "held-out")

    def emoji(self):
        """A folder of two animated pictures: a panda that changes its colour, and a red fox."""
        folder = self.directory / "emoji"
        (folder / "webp").mkdir(parents=True)
        lines = ["code\ten\tru\tgroup\tframes\ten_synonyms\tru_synonyms\tanimation\tnote"]
        for code, name, russian, source in [("a1", "panda", "панда", "testsrc=s=48x48:r=8:d=2"), ("a2", "fox", "лиса", "color=red:s=48x32:r=8:d=1")]:
            subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-c:v", "libwebp_anim", "-lossless", "1",
                            str(folder / "webp" / f"{code}.webp")], check=True)
            lines.append(f"{code}\t{name}\t{russian}\tAnimals\t16\t\t\t9\t")
        (folder / "emoji.tsv").write_text("\n".join(lines) + "\n")
        return folder

    def test_animated_emoji(self):
        folder, out = self.emoji(), self.directory / "out"
        shapes = self.directory / "shapes"
        data = ["--emoji", str(folder), *SIZE, "--batch_size", "4", "--optimizer", "muon"]
        train("movq", out, *data, "--crop", "0", "--steps", "4", "--stop_at", "2")
        self.assertGreater((folder / "art.rgba").stat().st_size, 2 * 72 * 4 * 128 * 128)
        train("movq", out, *data, "--crop", "0", "--steps", "4")
        train("movq", shapes, *data[2:], "--crop", "0", "--steps", "4")
        self.assertNotEqual([row["loss"] for row in log(out, "movq")], [row["loss"] for row in log(shapes, "movq")])
        pool = [*data, "--clips", "4", "--frames", "2"]
        train("text-to-image", out, *pool, "--steps", "3")
        rows = log(out, "text-to-image")
        self.assertTrue(all(float(row["color"]) == 0 for row in rows), rows)
        self.assertTrue(any(float(row["shape"]) > 0 for row in rows), rows)
        train("keyframes", out, *data, "--clips", "4", "--steps", "2", "--motions", "left,right,up,down,still,grow,shrink")
        train("interpolation", out, *data, "--clips", "4", "--steps", "2", "--from", str(self.text_to_image("2", "--interpolation")[0]))
        self.assertTrue((out / "keyframes.safetensors").exists())
        done = train("movq", self.directory / "x", "--emoji", str(self.directory / "nowhere"), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("nowhere/emoji.tsv cannot be opened", done.stderr)
        # A state belongs to its data.
        done = train("movq", out, *data[2:], "--crop", "0", "--steps", "4", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("belongs to a run with other options", done.stderr)

    def test_tokenizer_command(self):
        folder = self.emoji()
        files = [self.directory / "a.model", self.directory / "b.model"]
        for file in files:
            subprocess.run([f"{ARGS.bin}/kandinsky-train", "tokenizer", "--emoji", folder, "--captions", "3000", "--pieces", "200",
                            "--out", file], check=True, capture_output=True, timeout=120)
        self.assertEqual(files[0].read_bytes(), files[1].read_bytes())
        done = subprocess.run([f"{ARGS.bin}/kandinsky-train", "tokenizer", "--emoji", folder, "--captions", "3000", "--pieces", "5000",
                               "--out", files[0]], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--pieces 5000", done.stderr)

    def test_average_is_the_mean_of_all_weights(self):
        models = []
        for seed in (1, 2, 3):
            models.append(self.directory / f"seed{seed}")
            subprocess.run([f"{ARGS.bin}/kandinsky-train", "init", "--preset", ARGS.model, "--out", str(models[-1]),
                            "--seed", str(seed)], check=True, capture_output=True, timeout=60)

        def average(*files):
            argv = [f"{ARGS.bin}/kandinsky-train", "average", "--weights", ",".join(map(str, files)),
                    "--out", str(self.directory / "mean.safetensors")]
            return subprocess.run(argv, capture_output=True, text=True, timeout=60)

        def numbers(path):
            return {name: struct.unpack(f"<{len(data) // 2}e", data) for name, data in tensors(path).items()}

        files = [model / "text_encoder.safetensors" for model in models]
        done = average(*files)
        self.assertEqual(done.returncode, 0, done.stderr)
        mean, parts = numbers(self.directory / "mean.safetensors"), [numbers(file) for file in files]
        self.assertEqual(mean.keys(), parts[0].keys())
        for name in mean:
            for value, *values in zip(mean[name], *(part[name] for part in parts)):
                # Half of the last of float16's eleven bits.
                self.assertAlmostEqual(value, sum(values) / 3, delta=abs(value) / 2000 + 1e-7, msg=name)
        self.assertNotEqual(mean, parts[0])

        for arguments, want in ((files[:1], "number of weight files is 1, must be at least 2"),
                                ((files[0], models[0] / "movq.safetensors"), "has no such tensor"),
                                ((files[0], self.directory / "none"), str(self.directory / "none"))):
            (self.directory / "mean.safetensors").unlink(missing_ok=True)
            done = average(*arguments)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(want, done.stderr)
            self.assertFalse((self.directory / "mean.safetensors").exists())

    def test_wrong_options_are_named(self):
        # arguments, what the message says
        cases = [
            (["movq", "--out", "x", "--steps", "0"], "--steps is 0, must be 1 to 100000000"),
            (["movq", "--out", "x", "--ema_decay", "1"], "--ema_decay is 1, must be 0 or more and below 1"),
            (["movq", "--out", "x", "--steps", "many"], '--steps is "many", must be a whole number'),
            (["movq", "--out", "x", "--leave_out", "2"], "--leave_out is 2.000000, must be 0 to 1"),
            (["movq", "--out", "x", "--fast_fraction", "1.5"], "--fast_fraction is 1.500000, must be 0 to 1"),
            (["movq", "--out", "x", "--circling_fraction", "-1"], "--circling_fraction is -1.000000, must be 0 to 1"),
            (["movq", "--out", "x", "--unnamed_colors", "2"], "--unnamed_colors is 2.000000, must be 0 to 1"),
            (["movq", "--out", "x", "--unnamed_colors", "0.7", "--mixed_colors", "0.4"],
             "--mixed_colors is 0.400000, must be 0 to 1 - unnamed_colors"),
            (["movq", "--out", "x", "--anchor", "x", "--videos", "x"], "--anchor holds colours of the moving shapes"),
            (["text", "--out", "x", "--videos", "x"], "text learns the attributes of the moving shapes"),
            (["text", "--out", "x", "--anchor_weight", "-1"], "--anchor_weight is -1"),
            (["movq", "--stepz", "1"], "unknown option --stepz"),
            (["movq"], "--out is needed"),
            (["interpolation", "--out", "x", "--baseline", "linear"], '--baseline is "linear", must be mfi or empty'),
            (["paint"], "unknown command paint"),
            (["movq", "--out", "x", "--emoji", "nowhere", "--videos", "x"], "--videos is for the moving shapes, not for --emoji"),
            (["movq", "--out", "x", "--emoji", "nowhere", "--mixed_colors", "0.1"], "--mixed_colors is for the moving shapes"),
            (["movq", "--out", "x", "--emoji", "nowhere", "--anchor", "x"], "--videos and --emoji have not"),
            (["keyframes", "--out", "x", "--emoji", "nowhere", "--colors", "red"], "--colors and --backgrounds are for the moving"),
            (["extractor", "--out", "x", "--emoji", "nowhere"], "extractor learns the attributes of the moving shapes"),
            (["tokenizer", "--pieces", "300"], "--out is needed"),
        ]
        for arguments, want in cases:
            with self.subTest(arguments=arguments):
                command, *rest = arguments
                rest = [str(self.directory / "x") if part == "x" else part for part in rest]
                argv = [f"{ARGS.bin}/kandinsky-train", command, *rest]
                if "--out" in rest:
                    argv += ["--preset", ARGS.model]
                done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(want, done.stderr)

    def test_recipe_gives_the_recorded_losses(self):
        recipe = pathlib.Path(__file__).resolve().parents[2] / "training" / "recipes" / "tiny"
        env = {**os.environ, "BIN": str(pathlib.Path(ARGS.bin).resolve())}
        # the run whose beginning is repeated, exit status, what is said
        cases = [
            ("autoencoder-1", 0, "step 5: loss "),
            ("text-to-image", 0, "step 5: loss "),
            ("interpolation-start", 0, "step 5: loss "),
            ("autoencoder-4", 0, "step 5: loss "),
            ("paint", 2, "no run is called paint"),
        ]
        for run, status, want in cases:
            with self.subTest(run=run):
                done = subprocess.run([recipe, self.directory / run, "--check", run], env=env, capture_output=True,
                                      text=True, timeout=240)
                self.assertEqual(done.returncode, status, done.stdout + done.stderr)
                self.assertIn(want, done.stdout + done.stderr)

    def test_state_of_another_run_is_refused(self):
        out = self.directory / "out"
        options = [*SIZE, "--crop", "0", "--batch_size", "1"]
        train("movq", out, *options, "--steps", "2", "--stop_at", "1")
        before = weights(out / "training" / "movq" / "state.safetensors")
        done = train("movq", out, *options, "--steps", "3", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("belongs to a run with other options", done.stderr)
        self.assertEqual(before, weights(out / "training" / "movq" / "state.safetensors"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--model", required=True)
    ARGS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
