# Given: root key label jobkey folder items at_once script
# One Slurm job, or one for each part of a long array, and never a second for the same attempt:
#   life      number of the attempt's folder (attempts that were continued count as one: see attempt)
#   N/trying.P  sbatch was called for part P, so that Slurm must be asked before it is called again
#   N/part.P    its number in Slurm      N/id  the id that was given      ../ids/ID  this folder, by id

look_up() {  # sets id to the job of that name, if any; records that never ran are not jobs
  local found
  found=$(squeue --me -h -t all -n "$1" -o '%F|%r' 2>> "$attempt/error") || return 1
  id=$(awk -F'|' '$2 != "BadConstraints" { print $1 }' <<< "$found" | sort -n | head -n 1)
  [ -z "$id" ] || return 0
  found=$(sacct -X -n -P -S now-7days --name="$1" -o jobid,state,nodelist 2> /dev/null) || return 0
  id=$(awk -F'|' '!($2 == "FAILED" && $3 == "None assigned") { sub(/_.*/, "", $1); print $1 }' <<< "$found" |
    sort -n | head -n 1)
}

list_parts() {  # lines: first item of the part, its array tasks; a part has as many as Slurm allows
  [ "$items" -gt 1 ] || { echo '0 -'; return; }
  local most item
  most=$(scontrol show config 2> "$attempt/error" | awk '$1 == "MaxArraySize" { print $3 }')
  [ -n "$most" ] || return 1
  [ "$most" -gt 1 ] || { echo "Slurm allows no arrays here (MaxArraySize is $most)" > "$attempt/error"; return 1; }
  for ((item = 0; item < items; item++)); do
    [ -e "$attempt/exit.$item=0" ] || echo "$item"
  done | awk -v most="$most" '
    function flush() { if (n) { range(); print first, spec } spec = ""; n = 0 }
    function range() { spec = spec (spec == "" ? "" : ",") from (to > from ? "-" to : "") }
    { part = int($1 / most); task = $1 % most
      if (n && part != last) flush()
      if (!n) { from = task; first = part * most } else if (task != to + 1) { range(); from = task }
      to = task; last = part; n++ }
    END { flush() }'
}

submit_part() {  # number, first item, array tasks
  local name="$label.$key.$life" id='' text
  [ "$1" = 0 ] || name=$name.$1
  [ ! -s "$attempt/part.$1" ] || return 0
  : > "$attempt/error"
  if [ -e "$attempt/trying.$1" ]; then look_up "$name" || return 1; fi
  if [ -z "$id" ]; then
    : > "$attempt/trying.$1"
    local array=()
    [ "$3" = - ] || array=("--array=$3${at_once:+%$at_once}")
    if text=$(sbatch --parsable --job-name="$name" --comment="penstock $jobkey attempt $life" "${array[@]}" \
      --chdir="$attempt" --output="$attempt/slurm.out" --open-mode=append \
      "$attempt/script.sh" "$attempt" "$1" "$2" < /dev/null 2> "$attempt/error" 9>&-); then
      id=$(grep -o '^[0-9]\+' <<< "$text" | tail -n 1)
    else  # it may have been taken all the same
      text=$(cat "$attempt/error")
      look_up "$name" || return 1
      [ -n "$id" ] || printf '%s\n' "$text" > "$attempt/error"
    fi
  fi
  [ -n "$id" ] || return 1
  [ -s "$attempt/part.$1" ] || keep "$attempt/part.$1" "$id"  # a job that runs already has written its own
}

need sbatch
job=$root/jobs/$key
lock "$job"
mkdir -p "$root/ids" "$root/work"
life=$(cat "$job/life" 2> /dev/null || echo 1)
attempt=$job/$life
known=$(cat "$job/folder" 2> /dev/null || :)
if [ -n "$known" ] && [ "$known" != "$folder" ]; then
  say refused "job $jobkey works in $known, so it cannot run in $folder too"
  exit
fi
if [ -s "$attempt/id" ]; then say id "$(cat "$attempt/id")"; exit; fi
mkdir -p "$attempt"
case $folder in *://*) ;; *) mkdir -p "$folder" || { say refused "$folder cannot be made on $(hostname)"; exit; } ;; esac
keep "$job/folder" "$folder"
keep "$job/about" "$label|$jobkey|$items"
[ -e "$attempt/attempt" ] || keep "$attempt/attempt" 1
keep "$attempt/script.sh" "$script"
if [ ! -s "$attempt/parts" ]; then
  parts=$(list_parts) && [ -n "$parts" ] || { say unsure "$(flat < "$attempt/error")"; exit; }
  keep "$attempt/parts" "$parts"
fi
part=0
while read -r first tasks; do
  if ! submit_part "$part" "$first" "$tasks"; then
    text=$(flat < "$attempt/error") there=
    case $text in *partition*) there=$(sinfo -h -o %R 2> /dev/null | sort -u | tr '\n' ' ') ;; esac
    say unsure "$text" "$there"
    exit
  fi
  part=$((part + 1))
done < "$attempt/parts"
# A controller that crashes gives its latest numbers again, so a number alone is no name for ever.
id=$(cat "$attempt/part.0").${key:0:8}
keep "$root/ids/$id" "$key/$life"
keep "$attempt/id" "$id"
say id "$id"
