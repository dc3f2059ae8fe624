#!/bin/bash
# A quarter of an hour on a GPU machine without a network, in parts that end by themselves:
#     gpu_quarter.sh check                                   270 s: does it work, and how fast is each piece
#     gpu_quarter.sh train GAMES COMPILE SECONDS [PRESET]    a Breakout curve at the defaults
#     gpu_quarter.sh more                                    240 s: where time is left
# Wheels of what the machine lacks are in .whl/; results go to $OUT. DEVICE=cpu tries the script without a GPU.
cd "$(dirname "$0")/.." || exit
: "${OUT:=/tmp/out}" "${DEVICE:=cuda}" "${SITE:=/tmp/site}" "${WORKERS:=5}"
mkdir -p "$OUT"
export PYTHONPATH=$SITE:$PWD PYTHONUNBUFFERED=1 WANDB_MODE=disabled TORCHINDUCTOR_CACHE_DIR=/tmp/inductor COLUMNS=100
[ -d "$SITE" ] || python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$SITE" .whl/*.whl || exit
part() {  # NAME LIMIT COMMAND...
    local name=$1 limit=$2; shift 2
    echo "=== $name (at $SECONDS s, limit $limit s)"
    timeout -k 5 "$limit" "$@" 2>&1 | grep --line-buffered -vE "^W[0-9]{4} |Warning" | tee -a "$OUT/$name.txt" | tail -n 45
    echo "=== $name: rc ${PIPESTATUS[0]}, until $SECONDS s"
}
gpu() { part "$1" "$2" python3 benchmarks/gpu.py --device "$DEVICE" --csv "$OUT/gpu.csv" "${@:3}"; }
case $1 in
check)
    { nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader
      lscpu | grep -E "Model name|Thread|Core|Socket|^CPU\(s\)|L3"; free -g | sed -n 2p
      python3 -c "import torch, numpy, ale_py, gymnasium, cv2; print(torch.__version__, numpy.__version__, ale_py.__version__, gymnasium.__version__, cv2.__version__, torch.backends.cudnn.version())"; } 2>&1 | tee "$OUT/facts.txt"
    part tests 110 python3 -m pytest -p no:cacheprovider -n "$WORKERS" --dist worksteal --timeout 100 -rA -q --tb=short --show-capture=stdout \
        tests/test_speed.py tests/test_gpu.py -k "cuda or gpu" \
        --deselect "tests/test_gpu.py::test_compiled_equals_eager_to_rounding[rainbow]"
    gpu emulators 45 --parts emulators --games 80 160 --threads 8 14 16 --seconds 1.5
    gpu updates 75 --parts updates acting --num-envs 80 --seconds 1.5 --kinds graph "graph, compiled" eager
    gpu loops 45 --parts loop --loop 80 160 --loop-seconds 8
    gpu loops_compiled 45 --parts loop --loop 160 256 --loop-seconds 8 --words compute.compile=true ;;
variants)  # of an update; games are made meanwhile, and timed when the GPU is quiet
    exec 8> /tmp/quiet; flock 8
    for n in "2 1" "16 16" "80 8" "80 16"; do
        set -- $n
        gpu "emulators_$1_$2" 75 --parts emulators --games "$1" --threads "$2" --seconds 1.2 --lock /tmp/quiet 8>&- &
    done
    others=$(jobs -p)
    number=0
    for kind in "graph, compiled" "graph, compiled, online products" "graph, compiled, cuDNN tries" "graph, cuDNN tries" "graph, products"; do
        number=$((number + 1))
        gpu "variant_$number" 60 --parts updates --num-envs 80 --seconds 0.8 --kinds "$kind" --lock /tmp/gpu.lock 8>&- &
        mine+=($!)
    done
    wait "${mine[@]}"
    flock -u 8; wait $others ;;
more)  # where time is left
    gpu updates_more 60 --parts updates --seconds 1.5 --kinds "graph, cuDNN chooses by trying" "graph, float32"
    gpu rainbow 90 --parts updates --presets rainbow --seconds 1.5 --kinds graph "graph, compiled" ;;
train)
    games=$2 compile=$3 seconds=$4 preset=${5:-nature}
    # A graceful end at the limit: a last checkpoint, no evaluation. Evaluations and saves of 50,000-step runs would
    # take longer than what lies between them.
    timeout -k 30 "$seconds" python3 -m atari_dqn train env.game=Breakout preset="$preset" num_envs="$games" device="$DEVICE" \
        compute.compile="$compile" logger.wandb=off logger.tensorboard=false evaluation.every_steps=1_000_000_000 \
        evaluation.video_seconds=0 evaluation.held_out_states=0 checkpoint.every_steps=2_000_000 checkpoint.replay=false \
        logger.every_steps=50_000 run_dir=/tmp/run 2>&1 | tee "$OUT/train.txt" | tail -n 25
    part evaluate 60 python3 -m atari_dqn evaluate checkpoint=/tmp/run evaluation.episodes=30 evaluation.num_envs=30 device="$DEVICE"
    cd /tmp/run && tar czf "$OUT/run.tgz" --exclude=previous.pt --exclude=latest.pt . && ls -la "$OUT"
    cut -d, -f1-4,9-11 metrics.csv | tail -n 12 ;;
esac
(cd "$OUT" && tar czf texts.tgz ./*.txt && rm ./*.txt)
echo "ended at $SECONDS s"
