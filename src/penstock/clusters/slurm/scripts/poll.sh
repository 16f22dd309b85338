# Given: root ids
# One squeue for all, and none when the exit records say it all; sacct for what squeue has forgotten.

shopt -s nullglob
declare -A path numbers wanted
open=() now=$(date +%s)
say now "$now"
for id in $ids; do
  if ! read -r where 2> /dev/null < "$root/ids/$id"; then say none "$id"; continue; fi
  record=$root/jobs/$where path[$id]=$root/jobs/$where
  IFS='|' read -r _ _ items < "${record%/*}/about"
  read -r attempt < "$record/attempt"
  good=("$record"/exit*=0) bad=()
  for file in "$record"/exit*=*; do case $file in *=0) ;; *) bad+=("$file") ;; esac; done
  cancelled=0
  [ ! -e "$record/cancelled" ] || cancelled=1
  say job "$id" "$attempt" "$items" "$cancelled"
  for file in "${bad[@]}"; do
    ended='{}'
    read -r ended < "$file"  # its first line, without the end of stderr
    case $ended in *,) ended=${ended%,}'}' ;; esac
    say bad "$id" "${file##*/exit}" "$ended"
  done
  if [ "$items" -le "${#good[@]}" ]; then say done "$id"; continue; fi
  names=("${good[@]##*/exit.}")
  [ "$items" -le 1 ] || { IFS=,; say good "$id" "${names[*]%=0}"; unset IFS; }
  numbers[$id]=
  first=(0)
  [ "$items" -le 1 ] || mapfile -t first < <(cut -d' ' -f1 "$record/parts")
  for file in "$record"/part.*; do
    number='' && read -r number < "$file" || continue
    say part "$id" "$number" "${first[${file##*.}]:-0}"
    numbers[$id]+=" $number" wanted[$number]=${where%/*}  # the key, which is in the job's name: numbers may be given again
  done
  open+=("$id")
done
[ "${#open[@]}" -gt 0 ] || exit 0

if found=$(squeue --me -h -t all -r -o '%F|%K|%T|%j|%r' 2>&1 < /dev/null); then
  say squeue 0
else
  say squeue 1 "$(flat <<< "$found")"
  exit 0
fi
ours=$(for number in "${!wanted[@]}"; do echo "$number.${wanted[$number]}"; done)
OURS='BEGIN { split(ours, list, " "); for (i in list) { split(list[i], of, "."); key_of[of[1]] = of[2] } }
  function is_ours(number, name) { return number in key_of && index(name, "." key_of[number] ".") }'
found=$(awk -F'|' -v ours="$ours" "$OURS"'
  is_ours($1, $4) { key = $1 "|" $3 "|" $5; comma = key in tasks ? "," : ""; tasks[key] = tasks[key] comma ($2 == "N/A" ? "" : $2) }
  END { for (key in tasks) print "slurm|" key "|" tasks[key] }' <<< "$found")
[ -z "$found" ] || printf '%s\n' "$found"

ENDED='^(BOOT_FAIL|CANCELLED|COMPLETED|DEADLINE|FAILED|LAUNCH_FAILED|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|RECONFIG_FAIL|TIMEOUT)$'
living=" $(awk -F'|' -v ended="$ENDED" '$3 !~ ended { print $2 }' <<< "$found" | sort -u | tr '\n' ' ') "
listed=" $(cut -d'|' -f2 <<< "$found" | sort -u | tr '\n' ' ') "
forgotten=
for id in "${open[@]}"; do
  over=1
  for number in ${numbers[$id]}; do
    case $living in *" $number "*) over=0 ;; esac
    case $listed in *" $number "*) ;; *) forgotten+=,$number ;; esac
  done
  if [ "$over" = 0 ]; then
    [ ! -e "${path[$id]}/over" ] || rm -f "${path[$id]}/over"
  else  # since when Slurm has known no living job, while exit records are lacking
    [ -s "${path[$id]}/over" ] || keep "${path[$id]}/over" "$now"
    read -r since < "${path[$id]}/over" && say over "$id" "$((now - since))"
  fi
done
[ -n "$forgotten" ] || exit 0
if found=$(sacct -X -n -P -S now-30days -j "${forgotten#,}" -o jobid,state,jobname%200,reason 2>&1 < /dev/null); then
  awk -F'|' -v ended="$ENDED" -v ours="$ours" "$OURS"'  # ends alone: of a job that the controller lost, sacct says RUNNING for ever
    { state = $2; sub(/ .*/, "", state); split($1, id, "_") }
    state ~ ended && is_ours(id[1], $3) { print "slurm|" id[1] "|" $2 "|" $4 "|" id[2] }' <<< "$found"
else
  say sacct 1 "${forgotten#,}" "$(flat <<< "$found")"
fi
