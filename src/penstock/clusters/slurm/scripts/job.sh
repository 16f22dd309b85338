
# --- the same for every job: what is above is given, and SLURM_ variables --------------------------------

warned=false
trap 'warned=true' USR1  # of the time limit; see below
record=$1 part=$2 first=$3
number=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID} tag='' child='' woken='' terminated=false
limit='' phase='cannot be begun' started=$(date +%s.%3N)
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  export PENSTOCK_ITEM=$((first + SLURM_ARRAY_TASK_ID)) PENSTOCK_ITEMS=$items
  tag=.$PENSTOCK_ITEM
fi
case $folder in
  *://*) apart=1 logs=$record name=${record%/*} name=${name##*/}
    work=${workspace:-${record%/jobs/*}/work}/$name${tag:+/$PENSTOCK_ITEM} ;;
  *) apart='' logs=$folder work=$folder ;;
esac

own=()  # the results that are this run's alone: of those in a folder that items share, the ones that name the item
for pattern in "${results[@]}"; do
  named=${pattern//'{item}'/${PENSTOCK_ITEM:-0}}
  if [ -n "$apart" ] || [ -z "$tag" ] || [ "$named" != "$pattern" ]; then own+=("$named"); fi
done

keep() { printf '%s\n' "$2" > "${1%/*}/.${1##*/}.$SLURM_JOB_ID" && mv -f "${1%/*}/.${1##*/}.$SLURM_JOB_ID" "$1"; }

carry() {  # FROM TO, three times at most
  local try
  for try in 1 4 0; do
    "${copy[@]}" "$1" "$2" > /dev/null 2>> "$logs/stderr$tag" < /dev/null && return
    sleep "$try"
  done
  phase="$1 cannot be copied to $2"
  return 1
}

fetch() {
  mkdir -p "$(dirname "$2")"
  case $1 in *://*) carry "$1" "$2" ;; *) cp -rfL "$1" "$2" 2>> "$logs/stderr$tag" || { phase="$1 cannot be copied"; return 1; } ;; esac
}

bring() {  # the results, then what was printed
  local pattern file IFS=
  for pattern in "${own[@]}"; do
    [ "$1" -eq 0 ] || break
    for file in $pattern; do
      if [ -e "$file" ]; then carry "$file" "$folder/$file" || return
      elif [ "$file" = "${file//[*?[]/}" ]; then phase="it ended well and left no $file"; return 1; fi
    done
  done
  for file in stdout stderr; do
    [ ! -e "$logs/$file$tag" ] || carry "$logs/$file$tag" "$folder/$file$tag" || return
  done
}

left() {  # the results as they are here: names, sizes and hashes
  local pattern file name size comma='' IFS=
  for pattern in "${own[@]}"; do
    for file in $pattern; do [ ! -e "$file" ] || find -L "./$file" -type f -print0; done
  done | sort -zu | xargs -0 -r sha256sum -z -- | while read -r -d '' file; do
    name=${file:68} size=$(stat -L -c %s -- "${file:66}") || continue
    name=${name//\\/\\\\}
    printf '%s{"name": "%s", "bytes": %d, "sha256": "%s"}' "$comma" "${name//\"/\\\"}" "$size" "${file:0:64}"
    comma=', '
  done
}

tell() {  # the exit record, JSON; polls ask for its first line alone
  local tail
  tail=$(tail -n 20 "$logs/stderr$tag" 2> /dev/null | tail -c 2000 | LC_ALL=C tr -cd '\11\12\40-\176' |
    sed 's/\t/ /g; s/[\\"]/\\&/g' | awk '{ printf "%s\\n", $0 }')
  printf '{"code": %d, "why": "%s", "host": "%s", "started": %s, "ended": %s, "attempt": %d, "job": "%s", ' \
    "$1" "$(printf %s "$2" | tr -d '"\\\n')" "$(hostname)" "$started" "$(date +%s.%3N)" \
    "$(cat "$record/attempt")" "$number${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
  printf '"terminated": %s, "warned": %s,\n' "$terminated" "$warned"
  [ "$1" -ne 0 ] || printf '"results": [%s], ' "$(left 2>> "$logs/stderr$tag")"
  printf '"tail": "%s"}\n' "$tail"
}

finish() {
  local code=$? why=''
  trap '' TERM USR1
  trap - EXIT
  if [ "$code" -ne 0 ]; then why=$limit; fi
  if [ "$code" -ne 0 ] && [ "$terminated" = false ]; then why=$phase; fi
  if [ "$code" -gt 128 ] && [ "$code" -le 192 ]; then code=$((128 - code)); fi
  if [ -n "$apart" ] && ! bring "$code"; then
    if [ "$code" -eq 0 ]; then code=74 why=$phase; elif [ "$terminated" = false ]; then why=$phase; fi
  fi
  tell "$code" "$why" > "$record/exit$tag.new"
  if [ -z "$apart" ]; then
    cp "$record/exit$tag.new" "$folder/.exit$tag" && mv -f "$folder/.exit$tag" "$folder/exit$tag"
  elif ! carry "$record/exit$tag.new" "$folder/exit$tag"; then
    code=74
    tell "$code" "$phase" > "$record/exit$tag.new"
  elif [ "$code" -eq 0 ]; then
    cd / && rm -rf "$work"
  fi
  mv -f "$record/exit$tag.new" "$record/exit$tag=$code" || exit 74
  exit $((code < 0 ? 128 - code : code))
}

over_time() {  # Slurm looks at limits every half minute; only now can it be told from a cancellation without asking Slurm
  local end=${SLURM_JOB_END_TIME:-$((${started%.*} + minutes * 60))} now
  now=$(date +%s)
  if [ "$end" -gt "${started%.*}" ] && [ "$now" -ge $((end - 15)) ]; then limit="ended at its time limit of $(((end - ${started%.*} + 59) / 60)) min"; fi
}

pass_on() { woken=1; if [ -n "$child" ]; then kill -s "$1" "$child" 2> /dev/null; elif [ "$1" = TERM ]; then exit 143; fi; }

# Of two Slurm jobs for one piece of work (sbatch said that it failed, and was heard), one runs and the other goes.
if ! ln -s "$number" "$record/claim$tag" 2> /dev/null; then
  holder=$(readlink "$record/claim$tag") || { echo "$record is not seen from $(hostname); set scratch" >&2; exit 74; }
  [ "$holder" = "$number" ] || { echo "job $holder does the work of $number already" >&2; exit 0; }
fi
for ended in "$record/exit$tag="*; do [ ! -e "$ended" ] || exit 0; done
[ "$(cat "$record/part.$part" 2> /dev/null)" = "$number" ] || keep "$record/part.$part" "$number"

trap finish EXIT
trap 'terminated=true; over_time; pass_on TERM' TERM
trap 'warned=true; pass_on USR1' USR1

if [ -n "$apart" ]; then mkdir -p "$work"; fi
cd "$work" || { phase="$work is not seen from $(hostname)"; exit 74; }
if [ -z "$apart" ] && [ "${record##*/}" -gt 1 ]; then  # what an earlier attempt left
  aside=attempt-$((${record##*/} - 1))
  mkdir -p "$aside"
  for file in stdout stderr exit; do [ ! -e "$file$tag" ] || mv -f "$file$tag" "$aside/"; done
fi
export OMP_NUM_THREADS=$cpus SRUN_CPUS_PER_TASK=$cpus
phase='a line of the prologue failed'
set -e
prologue 2>> "$logs/stderr$tag"
set +e
environment
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
if [ "${SLURM_CPUS_ON_NODE:-0}" -gt "$(nproc --all)" ]; then  # a node that says it has more cores than it has
  export PRTE_MCA_hwloc_default_binding_policy=none OMPI_MCA_hwloc_base_binding_policy=none
fi
case $python in */*) PATH=$(dirname "$python"):$PATH ;; esac
if [ -n "$apart" ]; then fetch "$folder/job.json" job.json || exit 74; fi
for ((at = 0; at < ${#inputs[@]}; at += 2)); do fetch "${inputs[at]}" "${inputs[at + 1]}" || exit 74; done
case ${launch[0]:-} in
  auto) if found=$(command -v mpiexec || command -v mpirun); then launch=("$found" -n "$SLURM_NTASKS")
    else launch=(srun --mpi=pmix); fi ;;
  mpirun | mpiexec) launch=("${launch[0]}" -n "$SLURM_NTASKS" "${launch[@]:1}") ;;
esac

phase=''
"${launch[@]}" "${program[@]}" > "$logs/stdout$tag" 2>> "$logs/stderr$tag" < /dev/null &
child=$!
# Warned before it ran: it has just begun, and hears nothing yet.
if [ "$warned" = true ]; then { sleep 5; kill -s USR1 "$child"; } 2> /dev/null & fi
while woken=''; wait "$child"; code=$?; [ -n "$woken" ]; do before=$code; done  # a signal ends the wait alone
[ "$code" -ge 0 ] || code=$before  # Bash 5.2 says -1 of a program that died of the signal that woke the wait
if [ "$code" -gt 128 ] && [ "$terminated" = false ]; then sleep 1; fi  # Slurm's TERM may reach the program before us
exit "$code"
