// SPDX-License-Identifier: GPL-3.0-or-later
// fvOption "penstockForce": adds the streamed force to the momentum equation, in solvers that have fvOptions.

#include "force.H"

#include "addToRunTimeSelectionTable.H"
#include "fvMatrices.H"
#include "fvOption.H"
#include "volFields.H"

namespace
{
    int applied = 0;
}

int penstock::timesApplied() { return applied; }

namespace Foam
{
namespace fv
{

class penstockForce
:
    public option
{
    const volVectorField& force() const
    {
        const volVectorField* found = mesh_.findObject<volVectorField>(penstock::forceName);
        if (!found)
            FatalErrorInFunction << "penstock: no force was streamed; controlDict needs a function object of type "
                "penstock with 'force source;'" << nl << exit(FatalError);
        ++applied;
        return *found;
    }

public:

    TypeName("penstockForce");

    penstockForce(const word& name, const word& type, const dictionary& dict, const fvMesh& mesh)
    :
        option(name, type, dict, mesh)
    {
        fieldNames_ = coeffs_.lookupOrDefault<wordList>("fields", wordList(1, "U"));
        applied_.setSize(fieldNames_.size(), false);
    }

    virtual void addSup(fvMatrix<vector>& eqn, const label) { eqn += force(); }

    virtual void addSup(const volScalarField& rho, fvMatrix<vector>& eqn, const label) { eqn += rho*force(); }
};

defineTypeNameAndDebug(penstockForce, 0);
addToRunTimeSelectionTable(option, penstockForce, dictionary);

}
}
