# Given: root
shopt -s nullglob
for about in "$root"/jobs/*/about; do
  job=${about%/*} life=1
  [ ! -s "$job/life" ] || read -r life < "$job/life"
  [ -s "$job/$life/id" ] || life=$((life - 1))  # put aside and not yet begun anew
  [ -s "$job/$life/id" ] || continue
  read -r id < "$job/$life/id"
  times=("$job/$life/id" "$job/$life"/claim "$job/$life"/claim.0 "$job/$life"/exit*=*)
  say job "$id" "$(stat -c %Y "${times[@]}" 2> /dev/null | sort -n | tail -n 1)" "$(cat "$about")"
done
