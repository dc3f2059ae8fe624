#!/bin/bash
# A quarter of an hour on a GPU machine without a network, in parts that end by themselves:
#     gpu_quarter.sh check                             300 s: the tests, then how fast each piece is
#     gpu_quarter.sh train GAMES SECONDS [WORDS ...]   PRESET=nature on Breakout at the defaults; the tests while it starts
#     gpu_quarter.sh curves SECONDS                    PRESET=nature and PRESET=dopamine on Breakout, each on half the cores
#     gpu_quarter.sh atari100k GAMES SECONDS [WORDS ...] PRESET=drq_eps on GAMES ("Pong Breakout"), all of them at once
#     gpu_quarter.sh more                              240 s: whole loops, float32, cuDNN by trying, Rainbow
#     gpu_quarter.sh tests SECONDS                     the tests alone
# Wheels of what the machine lacks are in .whl/; results go to $OUT. DEVICE=cpu tries the script without a GPU.
cd "$(dirname "$0")/.." || exit
: "${OUT:=/tmp/out}" "${DEVICE:=cuda}" "${SITE:=/tmp/site}" "${WORKERS:=14}"
mkdir -p "$OUT"
export PYTHONPATH=$SITE:$PWD PYTHONUNBUFFERED=1 WANDB_MODE=disabled TORCHINDUCTOR_CACHE_DIR=/tmp/inductor COLUMNS=100
[ -d "$SITE" ] || python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$SITE" .whl/*.whl || exit

part() {  # NAME LIMIT COMMAND...
    local name=$1 limit=$2; shift 2
    timeout -k 5 "$limit" "$@" 2>&1 | grep --line-buffered -vE "^W[0-9]{4} |Warning|_warn_once" > "$OUT/$name.txt"
    echo "=== $name: rc ${PIPESTATUS[0]}, until $SECONDS s"
}

gpu() { part "$1" "$2" python3 benchmarks/gpu.py --device "$DEVICE" --csv "$OUT/gpu.csv" "${@:3}"; }

facts() {
    { nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
      lscpu | grep -E "Model name|Thread|Core|Socket|^CPU\(s\)|L3"; free -g | sed -n 2p
      python3 -c "import torch, numpy, ale_py, gymnasium, cv2; print(torch.__version__, numpy.__version__, ale_py.__version__, gymnasium.__version__, cv2.__version__, torch.backends.cudnn.version())"; } 2>&1 | tee "$OUT/facts.txt"
}

tests() {  # LIMIT: those of a GPU, the longest first, dealt to as many processes, each of which tells its own failures
    local names worker mine i all long="resumed|resumes|host_memory|compiled|deterministic"
    all=$(python3 -m pytest --collect-only tests/test_speed.py tests/test_gpu.py -k "cuda or gpu" | grep ::)
    mapfile -t names < <(grep -E "$long" <<< "$all"; grep -vE "$long" <<< "$all")
    for ((worker = 0; worker < WORKERS && worker < ${#names[@]}; worker++)); do
        mine=()
        for ((i = worker; i < ${#names[@]}; i += WORKERS)); do mine+=("${names[i]}"); done
        timeout -k 5 "$1" python3 -m pytest -p no:cacheprovider -v -rA --tb=short --show-capture=stdout "${mine[@]}" \
            > "$OUT/tests_$worker.txt" 2>&1 &
    done
    wait
    cat "$OUT"/tests_*.txt | grep -E "::.*(PASSED|FAILED|ERROR|SKIPPED)" | grep -oE "PASSED|FAILED|ERROR|SKIPPED" | sort | uniq -c
    grep -hE "^(FAILED|ERROR|E  )|apart" "$OUT"/tests_*.txt | cut -c1-200 | sort -u | head -n 60
    echo "=== tests: ${#names[@]} in all, until $SECONDS s"
}

pieces() {  # starts overlap; what is timed waits for a lock, and the emulators for a quiet GPU
    local games threads kind number=0 mine=() others=()
    exec 8> /tmp/quiet; flock 8
    for games in 80 160; do
        for threads in 8 14 16; do
            gpu "emulators_${games}_$threads" 120 --parts emulators --games "$games" --threads "$threads" --seconds 1.2 \
                --lock /tmp/quiet 8>&- & others+=($!)
        done
    done
    for kind in eager graph "graph, compiled" "graph, compiled, online products" "graph, compiled, cuDNN" "graph, cuDNN tries"; do
        number=$((number + 1))
        gpu "update_$number" 80 --parts updates --seconds 0.8 --kinds "$kind" --lock /tmp/gpu.lock 8>&- & mine+=($!)
    done
    gpu acting 60 --parts acting --num-envs 160 --seconds 0.8 --lock /tmp/gpu.lock 8>&- & mine+=($!)
    wait "${mine[@]}"
    flock -u 8
    wait "${others[@]}"
}

case $1 in
check) facts; tests 110; gpu repeat 60 --parts repeat; cat "$OUT/repeat.txt"; pieces ;;
train)
    facts
    # It ends gracefully at the limit: with a last checkpoint, without a last evaluation.
    timeout -k 30 "$3" python3 -m atari_dqn train env.game=Breakout preset=nature num_envs="$2" device="$DEVICE" \
        logger.wandb=off run_dir=/tmp/run "${@:4}" > "$OUT/train.txt" 2>&1 &
    training=$!
    (tests 70; part doctor 30 python3 -m atari_dqn doctor; cat "$OUT/doctor.txt")
    wait $training
    tail -n 30 "$OUT/train.txt"
    (cd /tmp/run && tar czf "$OUT/run.tgz" ./*.csv ./*.yaml ./*.json $(ls -t videos/*.mp4 2> /dev/null | head -n 2) && cp checkpoints/best.pt "$OUT")
    cut -d, -f1,4,9-11,13-18 /tmp/run/metrics.csv | tail -n 8
    cut -d, -f1,4,7,13 /tmp/run/evaluations.csv | tail -n 20 ;;
curves)
    cores=$(nproc)
    curve() {  # FIRST_CORE LAST_CORE GAMES SECONDS PRESET [WORDS ...]
        timeout -k 20 "$4" taskset -c "$1-$2" python3 -m atari_dqn train env.game=Breakout preset="$5" num_envs="$3" "${@:6}" \
            device="$DEVICE" logger.wandb=off logger.tensorboard=false evaluation.video_seconds=0 \
            run_dir="/tmp/curve_$5" > "$OUT/curve_$5.txt" 2>&1
        (cd "/tmp/curve_$5" && tar czf "$OUT/curve_$5.tgz" ./*.csv ./*.yaml ./*.json)
        tail -n 12 "$OUT/curve_$5.txt"
        cut -d, -f1,4,9-11,13-18 "/tmp/curve_$5/metrics.csv" | tail -n 4
        cut -d, -f1,4,7,13 "/tmp/curve_$5/evaluations.csv" | tail -n 12
    }
    # He's first weights are all that nnabla-rl's DQN was seen to do otherwise.
    curve 0 $((cores / 2 - 1)) 80 "$2" nature network.initialization=he &
    curve $((cores / 2)) $((cores - 1)) 32 "$2" dopamine & wait ;;
atari100k)
    facts
    # Each ends by itself: 100,000 steps, then 100 games. What does not end in time has no score.
    for game in $2; do
        timeout -k 20 "$3" python3 -m atari_dqn train env.game="$game" preset=drq_eps device="$DEVICE" logger.wandb=off \
            logger.tensorboard=false run_dir="/tmp/atari100k/$game-seed1" "${@:4}" > "$OUT/atari100k_$game.txt" 2>&1 &
    done
    wait
    for game in $2; do
        echo "$game: $(tail -n 1 "/tmp/atari100k/$game-seed1/metrics.csv" | cut -d, -f2-4,12) $(tail -n 1 "/tmp/atari100k/$game-seed1/evaluations.csv" | cut -d, -f4-11)"
    done
    (cd /tmp/atari100k && tar czf "$OUT/atari100k.tgz" ./*/*.csv ./*/*.yaml ./*/*.json) ;;
tests) facts; tests "$2" ;;
more)
    gpu loops 90 --parts loop --loop 80 160 256 --loop-seconds 8
    gpu updates_more 60 --parts updates --seconds 1.5 --kinds "graph, float32" "graph, compiled, cuDNN tries"
    gpu rainbow 90 --parts updates --presets rainbow --seconds 1.5 --kinds graph "graph, compiled" ;;
esac
[ -s "$OUT/gpu.csv" ] && cut -d, -f1-6 "$OUT/gpu.csv" | cut -c1-100
(cd "$OUT" && tar czf texts.tgz ./*.txt && rm ./*.txt)
echo "ended at $SECONDS s"
