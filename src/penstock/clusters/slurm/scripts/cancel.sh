# Given: root id
need squeue
if ! read -r where 2> /dev/null < "$root/ids/$id"; then
  say refused "there is no job $id below $root on $(hostname); cancel takes what submit gave"
  exit
fi
record=$root/jobs/$where
IFS='|' read -r _ _ items < "${record%/*}/about"
shopt -s nullglob
ended=("$record"/exit*=*)
if [ "${#ended[@]}" -lt "$items" ]; then
  : > "$record/cancelled"
  name=${where%/*}.${where##*/}
  known=$(squeue --me -h -o '%F|%j' 2>&1 < /dev/null) || { say unsure "$(flat <<< "$known")"; exit; }
  numbers=$(awk -F'|' -v name=".$name" 'index($2 ".", name ".") { print $1 }' <<< "$known" | sort -u)
  if [ -n "$numbers" ] && ! text=$(scancel $numbers 2>&1 < /dev/null); then
    case $text in
      *'Invalid job id'* | *'already completing or completed'*) ;;
      *) say unsure "$(flat <<< "$text")"; exit ;;
    esac
  fi
fi
say id "$id"
