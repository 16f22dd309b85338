// SPDX-License-Identifier: GPL-3.0-or-later
// Function object "penstock": see README.md for its dictionary.
//
// Before step k+1 it sends the state after step k and waits for the plane that holds until the next exchange.

#include "peer.H"
#include "force.H"

#include "addToRunTimeSelectionTable.H"
#include "fvMeshFunctionObject.H"
#include "fvc.H"
#include "IPstream.H"
#include "OPstream.H"
#include "surfaceFields.H"
#include "volFields.H"

#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace Foam
{
namespace functionObjects
{

class penstockExchange
:
    public fvMeshFunctionObject
{
    enum target { patchTarget = 1, forceTarget = 2 };

    word field_, patch_, force_, flux_;
    label interval_;
    label components_;

    // On the master; the position of each rank's values in the undecomposed mesh's order.
    std::unique_ptr<penstock::Peer> peer_;
    labelListList order_;
    label count_;

    autoPtr<volVectorField> body_;
    label applied_;

    // How long the master has waited for planes

    label exchanges_;
    scalar waited_;

    // Settings

    bool forcing() const { return !force_.empty(); }

    template<class Action> void orDie(Action action) const
    {
        try { action(); }
        catch (const std::exception& error)
        {
            FatalErrorInFunction << "penstock: " << error.what() << nl << exit(FatalError);
        }
    }

    void require(bool good, const string& text) const
    {
        if (!good) FatalErrorInFunction << "penstock: " << text.c_str() << nl << exit(FatalError);
    }

    label patchIndex() const { return mesh_.boundaryMesh().findPatchID(patch_); }

    template<class Type> GeometricField<Type, fvPatchField, volMesh>& whole() const
    {
        return mesh_.lookupObjectRef<GeometricField<Type, fvPatchField, volMesh>>(field_);
    }

    template<class Type> bool hasField() const
    {
        return mesh_.foundObject<GeometricField<Type, fvPatchField, volMesh>>(field_);
    }

    void readSettings(const dictionary& dict)
    {
        field_ = dict.get<word>("field");
        interval_ = dict.lookupOrDefault<label>("interval", 1);
        flux_ = dict.lookupOrDefault<word>("flux", "phi");
        dict.readIfPresent("patch", patch_);
        dict.readIfPresent("force", force_);
        require(interval_ >= 1, "interval must be 1 or more");
        require(patch_.empty() != force_.empty(), "write either 'patch NAME;' or 'force kick;' or 'force source;'");
        require(force_.empty() || force_ == "kick" || force_ == "source",
            "force must be kick or source, not " + force_);
        components_ = hasField<vector>() ? 3 : hasField<scalar>() ? 1 : 0;
        require(components_, "there is no vector or scalar field " + field_ + " in this solver");
        if (forcing()) prepareForce(); else checkPatch();
    }

    void checkPatch() const
    {
        string names;
        forAll(mesh_.boundaryMesh(), i) names += " " + mesh_.boundaryMesh()[i].name();
        require(patchIndex() >= 0, "there is no patch " + patch_ + "; the mesh has" + names);
        const word type = components_ == 3 ? whole<vector>().boundaryField()[patchIndex()].type()
            : whole<scalar>().boundaryField()[patchIndex()].type();
        require(type == "fixedValue", field_ + " on patch " + patch_ + " is of type " + type
            + "; only a fixedValue can be set");
    }

    void prepareForce()
    {
        require(components_ == 3, "a force needs a vector field, and " + field_ + " is none");
        require(force_ != "kick" || !time_.controlDict().lookupOrDefault<Switch>("adjustTimeStep", false),
            "force kick needs a fixed time step; write 'adjustTimeStep no;' or use 'force source;'");
        body_.reset(new volVectorField
        (
            IOobject(penstock::forceName, time_.timeName(), mesh_, IOobject::NO_READ, IOobject::NO_WRITE),
            mesh_, dimensionedVector(dimAcceleration, Zero)
        ));
    }

    // Order

    //- Of this rank's faces or cells, in the undecomposed mesh
    labelList labels() const
    {
        const label size = forcing() ? mesh_.nCells() : mesh_.boundary()[patchIndex()].size();
        const label start = forcing() ? 0 : mesh_.boundaryMesh()[patchIndex()].start();
        if (!Pstream::parRun()) return identity(size, start);
        IOobject where(forcing() ? "cellProcAddressing" : "faceProcAddressing", mesh_.facesInstance(),
            mesh_.meshSubDir, mesh_, IOobject::MUST_READ, IOobject::NO_WRITE, false);
        require(where.typeHeaderOk<labelIOList>(true), where.name() + " is missing in " + where.path()
            + "; decompose the case with decomposePar");
        const labelIOList addressing(where);
        labelList result(size);
        // Faces count from 1, with a sign for those that are turned.
        forAll(result, i) result[i] = forcing() ? addressing[i] : mag(addressing[start + i]) - 1;
        return result;
    }

    void findOrder()
    {
        order_.setSize(Pstream::nProcs());
        order_[Pstream::myProcNo()] = labels();
        Pstream::gatherList(order_);
        if (!Pstream::master()) return;
        label first = labelMax;
        count_ = 0;
        for (const labelList& one : order_) { count_ += one.size(); for (const label i : one) first = min(first, i); }
        require(count_ > 0, "patch " + patch_ + " has no faces");
        boolList seen(count_, false);
        for (labelList& one : order_)
        {
            for (label& i : one)
            {
                i -= first;
                require(i < count_ && !seen[i], "procAddressing does not fit this case; decompose it again");
                seen[i] = true;
            }
        }
    }

    //- From all ranks to the master
    List<scalar> gathered(const UList<scalar>& own, const label components) const
    {
        if (!Pstream::parRun()) return List<scalar>(own);
        List<List<scalar>> parts(Pstream::nProcs());
        parts[Pstream::myProcNo()] = own;
        Pstream::gatherList(parts);
        List<scalar> result;
        if (!Pstream::master()) return result;
        result.setSize(count_*components);
        forAll(parts, rank) forAll(order_[rank], i) for (label c = 0; c < components; ++c)
            result[order_[rank][i]*components + c] = parts[rank][i*components + c];
        return result;
    }

    //- From the master to each rank what is its own
    List<scalar> spread(const UList<scalar>& values) const
    {
        if (!Pstream::parRun()) return List<scalar>(values);
        List<scalar> own;
        if (!Pstream::master())
        {
            IPstream master(Pstream::commsTypes::scheduled, Pstream::masterNo());
            master >> own;
            return own;
        }
        for (label rank = Pstream::nProcs() - 1; rank >= 0; --rank)
        {
            own.setSize(order_[rank].size()*components_);
            forAll(order_[rank], i) for (label c = 0; c < components_; ++c)
                own[i*components_ + c] = values[order_[rank][i]*components_ + c];
            if (rank == Pstream::masterNo()) break;
            OPstream slave(Pstream::commsTypes::scheduled, rank);
            slave << own;
        }
        return own;
    }

    // Exchange

    template<class Type> static List<scalar> flat(const UList<Type>& values)
    {
        List<scalar> result(values.size()*pTraits<Type>::nComponents);
        if (result.size()) std::memcpy(result.data(), values.cdata(), values.size()*sizeof(Type));
        return result;
    }

    template<class Type> List<scalar> observed() const
    {
        if (forcing()) return flat<Type>(whole<Type>().primitiveField());
        return flat<Type>(whole<Type>().boundaryField()[patchIndex()].patchInternalField()());
    }

    template<class Type> void set(const UList<scalar>& values)
    {
        Field<Type> own(values.size()/pTraits<Type>::nComponents);
        if (own.size()) std::memcpy(static_cast<void*>(own.data()), values.cdata(), own.size()*sizeof(Type));
        whole<Type>().boundaryFieldRef()[patchIndex()] == own;
    }

    void introduce(const dictionary& dict)
    {
        const vectorField& places = forcing() ? mesh_.C().primitiveField() : mesh_.Cf().boundaryField()[patchIndex()];
        const List<scalar> centres = gathered(flat<vector>(places), 3);
        if (!Pstream::master()) return;
        orDie([&]
        {
            peer_.reset(new penstock::Peer(dict.get<string>("address")));
            penstock::HelloHead head = {time_.timeIndex(), time_.value(), time_.deltaTValue(), time_.endTime().value(),
                interval_, Pstream::nProcs(), components_, forcing() ? forceTarget : patchTarget, count_};
            std::string told(reinterpret_cast<const char*>(&head), sizeof head);
            for (const std::string& text : {penstock::token(), std::string(field_), std::string(patch_)})
            {
                const std::uint16_t size = text.size();
                told.append(reinterpret_cast<const char*>(&size), sizeof size).append(text);
            }
            peer_->send(penstock::hello, told.data(), told.size(), centres.cdata(), centres.size()*sizeof(scalar));
            peer_->receive(penstock::welcome);
            peer_->startBeating();
        });
    }

    void tell(const bool last)
    {
        const List<scalar> values = gathered(components_ == 3 ? observed<vector>() : observed<scalar>(), components_);
        if (!Pstream::master()) return;
        const penstock::StateHead head = {time_.timeIndex(), time_.value(), time_.deltaTValue(), last};
        orDie([&]{ peer_->send(penstock::state, &head, sizeof head, values.cdata(), values.size()*sizeof(scalar)); });
    }

    List<scalar> answer()
    {
        List<scalar> values;
        if (!Pstream::master()) return values;
        orDie([&]
        {
            const std::vector<char>& payload = peer_->receive(penstock::plane);
            penstock::PlaneHead head;
            const std::size_t size = sizeof head + count_*components_*sizeof(scalar);
            if (payload.size() != size)
                refuse("the plane has " + std::to_string((payload.size() - sizeof head)/sizeof(scalar))
                    + " numbers, and " + std::to_string(count_*components_) + " were needed");
            std::memcpy(&head, payload.data(), sizeof head);
            if (head.step != time_.timeIndex())
                refuse("the plane is for step " + std::to_string(head.step) + ", and the solver stands at step "
                    + std::to_string(time_.timeIndex()));
            values.setSize(count_*components_);
            std::memcpy(values.data(), payload.data() + sizeof head, values.size()*sizeof(scalar));
            if (!penstock::finite(values.cdata(), values.size()))
                refuse("the plane for step " + std::to_string(head.step) + " holds NaN or infinity");
        });
        return values;
    }

    void refuse(const std::string& text)
    {
        peer_->send(penstock::failure, text.data(), text.size());
        throw std::runtime_error(text);
    }

    void turn(const bool last)
    {
        tell(last);
        ++exchanges_;
        if (last) return;
        const auto before = std::chrono::steady_clock::now();
        const List<scalar> values = answer();
        waited_ += std::chrono::duration<scalar>(std::chrono::steady_clock::now() - before).count();
        const List<scalar> own = spread(values);
        if (!forcing()) { components_ == 3 ? set<vector>(own) : set<scalar>(own); return; }
        std::memcpy(static_cast<void*>(body_->primitiveFieldRef().data()), own.cdata(), own.size()*sizeof(scalar));
        body_->correctBoundaryConditions();
    }

    //- The force's impulse over the coming step, on the velocity and on the flux that goes with it
    void kick() const
    {
        volVectorField& U = whole<vector>();
        surfaceScalarField& phi = mesh_.lookupObjectRef<surfaceScalarField>(flux_);
        require(phi.dimensions() == dimVelocity*dimArea, flux_ + " is no volume flux; use 'force source;'");
        const surfaceScalarField push(fvc::interpolate(body_()) & mesh_.Sf());
        const scalar dt = time_.deltaTValue();
        U.primitiveFieldRef() += dt*body_->primitiveField();
        U.correctBoundaryConditions();
        phi.primitiveFieldRef() += dt*push.primitiveField();
        forAll(phi.boundaryField(), i)
        {
            if (mesh_.boundary()[i].coupled()) phi.boundaryFieldRef()[i] == phi.boundaryField()[i]
                + dt*push.boundaryField()[i];
        }
    }

public:

    TypeName("penstock");

    penstockExchange(const word& name, const Time& time, const dictionary& dict)
    :
        fvMeshFunctionObject(name, time, dict),
        interval_(1), components_(0), count_(0), applied_(0), exchanges_(0), waited_(0)
    {
        // The list of function objects turns errors of constructors into warnings; a run without its stream is none.
        const bool throwing = FatalError.throwExceptions(false), throwingIO = FatalIOError.throwExceptions(false);
        readSettings(dict);
        findOrder();
        introduce(dict);
        turn(false);
        if (force_ == "kick") kick();
        FatalError.throwExceptions(throwing);
        FatalIOError.throwExceptions(throwingIO);
    }

    //- What is changed in the dictionary of a running solver is not looked at
    virtual bool read(const dictionary&) { return true; }

    virtual bool execute()
    {
        // As in Time::run()
        const bool last = time_.value() >= time_.endTime().value() - 0.5*time_.deltaTValue();
        if (force_ == "source")
        {
            require(penstock::timesApplied() != applied_, "no equation of this solver has taken the force; it needs "
                "fvOptions with an entry of type penstockForce, or 'force kick;'");
            applied_ = penstock::timesApplied();
        }
        if (last || time_.timeIndex() % interval_ == 0) turn(last);
        if (!last && force_ == "kick") kick();
        return true;
    }

    virtual bool write() { return true; }

    virtual bool end()
    {
        Info<< "penstock: " << exchanges_ << " exchanges, waited " << waited_ << " s" << endl;
        if (peer_) orDie([&]{ peer_->send(penstock::end, "", 0); });
        peer_.reset();
        return true;
    }
};

defineTypeNameAndDebug(penstockExchange, 0);
addToRunTimeSelectionTable(functionObject, penstockExchange, dictionary);

}
}
