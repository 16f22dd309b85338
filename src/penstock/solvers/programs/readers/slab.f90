! Reads a Penstock dataset under MPI without Python: each rank the rows that are its own.
!
!   mpifort -O2 -o slab slab.f90 $(pkg-config --cflags --libs hdf5) -lhdf5_fortran
!   mpiexec -n 4 ./slab DATASET/index.h5 embedding [TASKS]
!
! Prints the rows, the numbers in each, and the sum of all. In Fortran the row is the last dimension: a column
! "row dim" is values(dim, row). HDF5's ordinary driver is enough and must be used: the parallel one does not read
! virtual datasets. Where a part file is missing HDF5 gives fill values without a word, which the column "row"
! betrays by being negative. TASKS refuses an mpiexec of another MPI than this program's.
program slab
  use, intrinsic :: iso_c_binding, only: c_loc, c_ptr
  use, intrinsic :: iso_fortran_env, only: error_unit, real64
  use hdf5
  use mpi
  implicit none
  integer, parameter :: most_dimensions = 8
  integer :: rank, ranks, tasks, error
  integer(hid_t) :: file
  integer(hsize_t) :: rows, own, width
  character(len=4096) :: path, column, word
  real(real64), allocatable, target :: row(:), values(:)
  real(real64) :: total

  call mpi_init(error)
  call mpi_comm_rank(mpi_comm_world, rank, error)
  call mpi_comm_size(mpi_comm_world, ranks, error)
  if (command_argument_count() < 2) call refuse("slab", "arguments are missing; give INDEX COLUMN [TASKS]")
  call get_command_argument(1, path)
  call get_command_argument(2, column)
  if (command_argument_count() > 2) then
    call get_command_argument(3, word)
    read (word, *) tasks
    if (tasks /= ranks) call refuse("slab", &
      "there are other ranks than TASKS; start it by the mpiexec of the MPI that built it")
  end if

  call h5open_f(error)
  call h5fopen_f(trim(path), h5f_acc_rdonly_f, file, error)
  if (error < 0) call refuse(path, "is no HDF5 file; give the index.h5 of a dataset")
  call read_rows("row", row)
  if (any(row < 0)) call refuse(path, "a part of the dataset is missing; restore it; penstock verify names it")
  call read_rows(trim(column), values)

  call mpi_reduce(sum(values), total, 1, mpi_double_precision, mpi_sum, 0, mpi_comm_world, error)
  if (rank == 0) print '(i0, 1x, i0, 1x, es24.16e3)', rows, width, total
  call h5fclose_f(file, error)
  call h5close_f(error)
  call mpi_finalize(error)

contains

  ! Our rows of a column, one after the other.
  subroutine read_rows(name, into)
    character(len=*), intent(in) :: name
    real(real64), allocatable, target, intent(out) :: into(:)
    integer(hid_t) :: set, space, memory
    integer(hsize_t) :: extent(most_dimensions), most(most_dimensions), first(most_dimensions)
    integer :: dimensions
    type(c_ptr) :: place

    call h5dopen_f(file, name, set, error)
    if (error < 0) call refuse(name, "there is no such column; h5ls lists those that are there")
    call h5dget_space_f(set, space, error)
    call h5sget_simple_extent_ndims_f(space, dimensions, error)
    if (dimensions < 1 .or. dimensions > most_dimensions) call refuse(name, "not 1 to 8 dimensions; take another")
    call h5sget_simple_extent_dims_f(space, extent, most, error)
    rows = extent(dimensions)
    width = product(extent(:dimensions - 1))
    first = 0
    first(dimensions) = rows * rank / ranks
    own = rows * (rank + 1) / ranks - first(dimensions)
    extent(dimensions) = own

    allocate (into(own * width))
    call h5screate_simple_f(dimensions, extent, memory, error)
    call h5sselect_hyperslab_f(space, h5s_select_set_f, first, extent, error)
    if (own > 0) then
      place = c_loc(into)
      call h5dread_f(set, h5t_native_double, place, error, memory, space)
      if (error < 0) call refuse(name, "cannot be read; run penstock verify on the dataset")
    end if
    call h5sclose_f(memory, error)
    call h5sclose_f(space, error)
    call h5dclose_f(set, error)
  end subroutine

  subroutine refuse(where, what)
    character(len=*), intent(in) :: where, what
    write (error_unit, '(4a)') "slab: ", trim(where), ": ", what
    call mpi_abort(mpi_comm_world, 1, error)
    error stop
  end subroutine
end program
